//! Takes the guest's console output: one sink for all recorded consoles, and none for the others.

use std::sync::{Arc, Mutex, PoisonError};

use devices::serial::ConsoleSink;

use crate::outcome::Outcome;

/// A way to the machine's one sink. What several consoles write is mixed as it comes.
#[derive(Clone)]
pub(super) struct ConsoleTap {
    /// Taken with a console's own lock held, for a call of the sink; takes no other lock.
    shared: Arc<Mutex<FirstByteSink>>,
}

impl ConsoleTap {
    pub(super) fn new(sink: Box<dyn ConsoleSink>, outcome: &Arc<Outcome>) -> Self {
        let sink = FirstByteSink { inner: sink, outcome: Some(outcome.clone()) };
        Self { shared: Arc::new(Mutex::new(sink)) }
    }
}

impl ConsoleSink for ConsoleTap {
    fn write(&mut self, bytes: &[u8]) {
        // A sink that panicked fails its machine; what it is told until then does not matter.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    }
}

/// Passes output on to the sink and reports the first byte.
struct FirstByteSink {
    inner: Box<dyn ConsoleSink>,
    /// `None` once the first byte was reported.
    outcome: Option<Arc<Outcome>>,
}

impl FirstByteSink {
    fn write(&mut self, bytes: &[u8]) {
        self.inner.write(bytes);
        if let Some(outcome) = self.outcome.take() {
            outcome.first_console_byte();
        }
    }
}

/// A console that swallows what is written.
pub(super) struct NullSink;

impl ConsoleSink for NullSink {
    fn write(&mut self, _bytes: &[u8]) {}
}

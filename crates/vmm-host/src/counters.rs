//! Where a machine's counters are read: from the machine while it lives, from memory after.

use std::sync::{Mutex, PoisonError};

use vm_model::MachineCounters;

/// Reads one machine's counters, from any thread, without a trip through the machine's event loop.
pub trait CountersSource: Send + Sync {
    /// The counters now. All zero before the machine was built, the last reading after it ended.
    fn read(&self) -> MachineCounters;
}

/// The counters of a machine in this process.
#[derive(Default)]
pub(crate) struct CountersCell {
    /// Held during a reading, which takes microseconds, so that nothing of an ended machine is still in use by a reader.
    /// Replaced whole: a poisoned lock is used on.
    source: Mutex<Source>,
}

#[derive(Default)]
enum Source {
    #[default]
    NotBuilt,
    Live(Box<dyn CountersSource>),
    Ended(MachineCounters),
}

impl CountersCell {
    pub(crate) fn begin(&self, source: Box<dyn CountersSource>) {
        self.replace(Source::Live(source));
    }

    /// Keeps one last reading and lets go of the machine.
    pub(crate) fn end(&self) {
        self.replace(Source::Ended(self.read()));
    }

    fn replace(&self, source: Source) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }
}

impl CountersSource for CountersCell {
    fn read(&self) -> MachineCounters {
        match &*self.source.lock().unwrap_or_else(PoisonError::into_inner) {
            Source::NotBuilt => MachineCounters::default(),
            Source::Live(source) => source.read(),
            Source::Ended(counters) => counters.clone(),
        }
    }
}

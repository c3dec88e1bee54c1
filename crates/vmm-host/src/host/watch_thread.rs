//! The thread that looks at a host's machines now and then, and marks those whose own threads stand still.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::hosted_machines::HostedMachines;

/// The thread's name.
pub(crate) const WATCH_THREAD: &str = "vm-watch";

/// How often machines are looked at, at most and at least.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// A host's watch thread. Dropping it makes the thread end, soon.
pub(crate) struct WatchThread {
    /// Nothing is ever sent: the thread waits for its end.
    _end: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl WatchThread {
    /// Starts watching `machines`, whose threads may stand still for `patience`.
    pub(crate) fn start(machines: Arc<HostedMachines>, patience: Duration) -> io::Result<Self> {
        let (end, ended) = sync_channel(0);
        let builder = thread::Builder::new().name(WATCH_THREAD.to_owned());
        let thread = builder.spawn(move || watch(&ended, &machines, patience))?;
        Ok(Self { _end: end, thread: Some(thread) })
    }

    /// Ends it and waits, which takes no longer than a look at each machine.
    pub(crate) fn end(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks at machines panicked");
        }
    }
}

fn watch(ended: &Receiver<()>, machines: &HostedMachines, patience: Duration) {
    let (most_often, least_often) = LOOK_EVERY;
    let interval = (patience / 10).clamp(most_often, least_often);
    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        machines.update_health(Instant::now(), patience);
    }
}

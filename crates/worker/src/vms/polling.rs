//! The thread that samples all VMs' counters at an interval.

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::registry::Registry;

/// Sampling, for as long as this value lives. It also ends when the manager is dropped.
#[derive(Debug)]
#[must_use = "sampling ends when this value is dropped"]
pub struct MetricsPolling {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsPolling {
    pub(super) fn start(registry: Weak<Registry>, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let work = move || {
            loop {
                match registry.upgrade() {
                    Some(registry) => registry.sample_all(),
                    None => return,
                }
                match stopped.recv_timeout(interval) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = Builder::new().name("vm-metrics".to_owned()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for MetricsPolling {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It sleeps or reads counters, so it is here at once; if it panicked it has said so itself.
            let _ = thread.join();
        }
    }
}

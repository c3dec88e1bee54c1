//! Where ended machines are taken apart: one thread a host, one machine after the other.
//!
//! Closing a machine's descriptors can wait for the kernel for milliseconds, and closing several at once takes
//! longer than one by one. So nobody who waits for a machine to stop waits for this; who needs its memory or
//! its TAP back waits for the release.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use super::registry::Registry;
use crate::containment::dispose;
use crate::handover::{EndedMachine, ToReaper, handover};

/// The thread's name.
pub(super) const REAPER_THREAD: &str = "vm-reaper";

/// Starts the reaper.
pub(super) fn start_reaper(registry: Arc<Registry>) -> io::Result<(ToReaper, JoinHandle<()>)> {
    let (to_reaper, ended) = handover();
    let thread =
        thread::Builder::new().name(REAPER_THREAD.to_owned()).spawn(move || reap(&ended, &registry))?;
    Ok((to_reaper, thread))
}

fn reap(ended: &Receiver<EndedMachine>, registry: &Registry) {
    while let Ok(EndedMachine { id, remains, release }) = ended.recv() {
        dispose(remains);
        // The thread handed this over as its last act: the join is short.
        if let Some(thread) = registry.thread_of(&id)
            && thread.join().is_err()
        {
            tracing::error!(vm_id = %id, "a machine's thread panicked outside of its containment");
        }
        registry.remove(&id);
        release.send_replace(true);
    }
}

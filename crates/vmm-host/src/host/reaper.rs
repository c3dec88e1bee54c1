//! Where ended machines are taken apart: one thread a host, one machine after the other.
//!
//! Closing a machine's descriptors can wait for the kernel for milliseconds, and closing several at once takes
//! longer than one by one. So a stop does not wait for this; callers that need the machine's memory or its
//! TAP back wait for the release.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use super::hosted_machines::HostedMachines;
use crate::containment::dispose;
use crate::handover::{EndedMachine, ToReaper, handover};

/// The thread's name.
pub(super) const REAPER_THREAD: &str = "vm-reaper";

/// Starts the reaper.
pub(super) fn start_reaper(machines: Arc<HostedMachines>) -> io::Result<(ToReaper, JoinHandle<()>)> {
    let (to_reaper, ended) = handover();
    let thread =
        thread::Builder::new().name(REAPER_THREAD.to_owned()).spawn(move || reap(&ended, &machines))?;
    Ok((to_reaper, thread))
}

fn reap(ended: &Receiver<EndedMachine>, machines: &HostedMachines) {
    while let Ok(EndedMachine { id, remains, release }) = ended.recv() {
        dispose(remains);
        // The thread handed this over as its last act: the join is short.
        if let Some(thread) = machines.thread_of(&id)
            && thread.join().is_err()
        {
            tracing::error!(vm = %id, "a machine's thread panicked outside of its containment");
        }
        machines.remove(&id);
        release.send_replace(true);
    }
}

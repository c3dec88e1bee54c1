//! Where ended machines are taken apart: one thread a host, one machine after the other.
//!
//! Closing a machine's descriptors can wait for the kernel for milliseconds, and closing several at once takes
//! longer than one by one. So nobody who waits for a machine to stop waits for this; who needs its memory or
//! its TAP back waits for the release.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tokio::sync::watch;
use vm_model::VmId;

use crate::containment::dispose;
use crate::registry::Registry;

/// The thread's name.
pub(crate) const REAPER_THREAD: &str = "vm-reaper";

/// Ended machines that may wait. Their threads wait when it is full, and have nothing else to do.
const QUEUE: usize = 64;

/// Tells that a machine's resources are gone: by a value, and by its own end if the reaper should not get to it.
pub(crate) type ReleaseSignal = watch::Sender<bool>;

struct Ended {
    id: VmId,
    remains: Option<Box<dyn Send>>,
    release: ReleaseSignal,
}

/// The way to the reaper. The reaper ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct ToReaper(SyncSender<Ended>);

impl ToReaper {
    /// The last act of a machine's thread. May wait for the reaper.
    pub(crate) fn hand_over(self, id: VmId, remains: Option<Box<dyn Send>>, release: ReleaseSignal) {
        let ended = Ended { id, remains, release };
        // The reaper outlives every sender. Were it gone all the same, dropping here is as good.
        if let Err(refused) = self.0.send(ended) {
            dispose(refused);
        }
    }
}

/// Starts the reaper.
pub(crate) fn start_reaper(registry: Arc<Registry>) -> io::Result<(ToReaper, JoinHandle<()>)> {
    let (sender, receiver) = sync_channel(QUEUE);
    let thread =
        thread::Builder::new().name(REAPER_THREAD.to_owned()).spawn(move || reap(&receiver, &registry))?;
    Ok((ToReaper(sender), thread))
}

fn reap(ended: &Receiver<Ended>, registry: &Registry) {
    while let Ok(Ended { id, remains, release }) = ended.recv() {
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

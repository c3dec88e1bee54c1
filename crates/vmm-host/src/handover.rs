//! How an ended machine is handed over: from its own thread, as its last act, to the host's reaper.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::watch;
use vm_model::VmId;

use crate::containment::dispose;

/// Ended machines that may wait. Their threads wait when it is full, and have nothing else to do.
const QUEUE: usize = 64;

/// Tells that a machine's resources are released: by the value `true`, and by being dropped if the reaper never gets
/// to it.
pub(crate) type ReleaseSignal = watch::Sender<bool>;

/// A machine that has ended, to be taken apart.
pub(crate) struct EndedMachine {
    pub(crate) id: VmId,
    /// What is left to be dropped; `None` if no machine was built.
    pub(crate) remains: Option<Box<dyn Send>>,
    pub(crate) release: ReleaseSignal,
}

/// The sending end, for machines' threads. The reaper ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct ToReaper(SyncSender<EndedMachine>);

impl ToReaper {
    /// Hands `ended` over. May wait for the reaper.
    pub(crate) fn hand_over(self, ended: EndedMachine) {
        // The reaper outlives every sender. Were it gone all the same, dropping here is as good.
        if let Err(refused) = self.0.send(ended) {
            dispose(refused);
        }
    }
}

/// Both ends.
pub(crate) fn handover() -> (ToReaper, Receiver<EndedMachine>) {
    let (sender, receiver) = sync_channel(QUEUE);
    (ToReaper(sender), receiver)
}

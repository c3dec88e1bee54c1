//! What a machine's thread hands over to the host's reaper as its last act: what is left of its machine, or its place to the
//! next one.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::watch;
use vm_model::{MachineStatus, VmId};

use crate::containment::dispose;
use crate::engine::Remains;
use crate::machine_thread::NextMachine;

/// Messages that may wait. Who sends more waits, and has nothing else to do.
const QUEUE: usize = 64;

/// Tells that a machine is settled and its resources are gone: by a value, and by its own end if nobody gets to it.
pub(crate) type ReleaseSignal = watch::Sender<bool>;

/// A machine that has ended, to be taken apart.
pub(crate) struct EndedMachine {
    pub(crate) id: VmId,
    /// What is left to be dropped; `None` if no machine was built.
    pub(crate) remains: Option<Box<dyn Remains>>,
    /// Who runs the VM, given back when nothing of the machine can change a disk any more.
    pub(crate) lock: Option<OwnedFd>,
    /// Where it is told what is waited for.
    pub(crate) status: watch::Sender<MachineStatus>,
    pub(crate) release: ReleaseSignal,
}

/// What the reaper is told.
pub(crate) enum Message {
    /// A machine has ended.
    Ended(EndedMachine, ToReaper),
    /// A machine has ended, and another begins in its place.
    Next(Box<NextMachine>),
    /// A machine has been taken apart.
    TakenApart {
        /// Whose.
        id: VmId,
        /// Who waits for it.
        release: ReleaseSignal,
    },
}

/// The way to the reaper. The reaper ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct ToReaper(SyncSender<Message>);

impl ToReaper {
    /// Hands `ended` over: the last act of a machine's thread. May wait for the reaper.
    pub(crate) fn hand_over(self, ended: EndedMachine) {
        let to_reaper = self.clone();
        // The reaper outlives every sender. Were it gone all the same, dropping here is as good.
        if let Err(refused) = self.0.send(Message::Ended(ended, to_reaper)) {
            dispose(refused);
        }
    }

    /// Has `next` begin: the last act of the thread of the machine before. May wait for the reaper.
    pub(crate) fn begin_next(self, next: NextMachine) {
        // As above.
        if let Err(refused) = self.0.send(Message::Next(Box::new(next))) {
            dispose(refused);
        }
    }

    /// Says that machine `id` has been taken apart.
    pub(crate) fn taken_apart(self, id: VmId, release: ReleaseSignal) {
        // The reaper outlives every sender.
        let _ = self.0.send(Message::TakenApart { id, release });
    }
}

/// Both ends.
pub(crate) fn handover() -> (ToReaper, Receiver<Message>) {
    let (sender, receiver) = sync_channel(QUEUE);
    (ToReaper(sender), receiver)
}

//! What a host process has: its machines, the workers that are connected, and whether it is to go on.
//!
//! All of it belongs to one thread. Nothing is borrowed across an `.await`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use jail::JailReport;
use machine_host::MachineHandle;
use tokio::sync::Notify;
use vm_model::{MachineStatus, ThreadHealth, VmId};
use vmm_host::VmmHost;

use super::DirectoryKeeper;
use super::listening::Place;
use super::peer::Peer;
use super::process::name_process;
use crate::identity::ProcessIdentity;
use crate::wire::{FromHost, MachineListing};

/// The most connections at a time: a worker, the one that comes after it, and somebody who looks.
const CONNECTIONS_MAX: usize = 4;

/// What one host process has.
pub(super) struct Hosted {
    /// Runs the machines.
    pub(super) machines: VmmHost,
    pub(super) identity: ProcessIdentity,
    /// What came of this process' jail, where it entered one.
    pub(super) jail: Option<JailReport>,
    /// Who is told of the directories for what is written about each machine.
    keeper: Option<DirectoryKeeper>,
    known: RefCell<BTreeMap<VmId, Known>>,
    peers: RefCell<Vec<Weak<Peer>>>,
    /// Connections, those among them that said nothing yet.
    slots: Cell<usize>,
    /// Where later workers connect; removed when the process ends.
    place: RefCell<Option<Place>>,
    /// How patient its end is to be, once it is asked for.
    end: Cell<Option<Duration>>,
    /// Told when something of the above changes. Whoever waits looks first, without an `.await` in between.
    changed: Notify,
}

/// A machine from the request to launch it until it is forgotten.
struct Known {
    notes: String,
    requested: Instant,
    stage: Stage,
}

enum Stage {
    /// It is being launched, or was given up meanwhile and is not gone yet.
    Launching,
    Launched {
        handle: MachineHandle,
        released: bool,
    },
}

/// A connection's place among those that there may be.
pub(super) struct ConnectionSlot(Rc<Hosted>);

impl Hosted {
    pub(super) fn new(
        machines: VmmHost,
        identity: ProcessIdentity,
        jail: Option<JailReport>,
        keeper: Option<DirectoryKeeper>,
    ) -> Self {
        Self {
            machines,
            identity,
            jail,
            keeper,
            known: RefCell::default(),
            peers: RefCell::default(),
            slots: Cell::new(0),
            place: RefCell::default(),
            end: Cell::new(None),
            changed: Notify::new(),
        }
    }

    /// A slot, however many there are.
    pub(super) fn slot(self: &Rc<Self>) -> ConnectionSlot {
        self.slots.set(self.slots.get() + 1);
        ConnectionSlot(self.clone())
    }

    /// A slot, if one is free.
    pub(super) fn free_slot(self: &Rc<Self>) -> Option<ConnectionSlot> {
        (self.slots.get() < CONNECTIONS_MAX && self.end.get().is_none()).then(|| self.slot())
    }

    /// Has `peer` told what happens from now on.
    pub(super) fn welcome(&self, peer: &Rc<Peer>) {
        self.peers.borrow_mut().push(Rc::downgrade(peer));
    }

    /// Tells every worker.
    pub(super) fn tell_all(&self, message: &FromHost) {
        // Telling one may end it, and never adds one.
        let peers: Vec<_> = {
            let mut peers = self.peers.borrow_mut();
            peers.retain(|peer| peer.strong_count() > 0);
            peers.iter().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.tell(message.clone());
        }
    }

    /// A machine of `vm` is about to be launched. Whether there is none yet.
    pub(super) fn begin(&self, vm: &VmId, notes: String) -> bool {
        let mut known = self.known.borrow_mut();
        if known.contains_key(vm) {
            return false;
        }
        known.insert(vm.clone(), Known { notes, requested: Instant::now(), stage: Stage::Launching });
        name_process(known.keys());
        true
    }

    /// Hands the directory for what is written about `vm` on.
    pub(super) fn keep_directory(&self, vm: &VmId, directory: Option<BorrowedFd<'_>>) {
        if let Some(keeper) = &self.keeper {
            keeper(vm, directory);
        }
    }

    pub(super) fn note_launched(&self, handle: MachineHandle) {
        if let Some(known) = self.known.borrow_mut().get_mut(handle.id()) {
            known.stage = Stage::Launched { handle, released: false };
        }
    }

    /// The launch of `vm` came to be and is given up: its machine is killed by dropping its last handle.
    pub(super) fn note_given_up(&self, vm: &VmId) {
        let handle = match self.known.borrow_mut().get_mut(vm) {
            Some(known) => std::mem::replace(&mut known.stage, Stage::Launching),
            None => return,
        };
        drop(handle);
    }

    pub(super) fn note_released(&self, vm: &VmId) {
        if let Some(Known { stage: Stage::Launched { released, .. }, .. }) =
            self.known.borrow_mut().get_mut(vm)
        {
            *released = true;
        }
        self.changed.notify_waiters();
    }

    /// Nothing of `vm` is left, and nobody has to learn how it ended.
    pub(super) fn remove(&self, vm: &VmId) {
        let removed = {
            let mut known = self.known.borrow_mut();
            let removed = known.remove(vm);
            name_process(known.keys());
            removed
        };
        // Dropping a handle runs code of others.
        drop(removed);
        self.keep_directory(vm, None);
        self.changed.notify_waiters();
    }

    /// A worker has seen the end of `vm`.
    pub(super) fn forget(&self, vm: &VmId) {
        let is_over = match self.known.borrow().get(vm).map(|known| &known.stage) {
            Some(Stage::Launched { released, .. }) => *released,
            Some(Stage::Launching) => false,
            None => return,
        };
        if is_over {
            self.remove(vm);
        } else {
            tracing::warn!(vm_id = %vm, "told to forget a machine that is not over");
        }
    }

    /// The machine of `vm`, once it is launched.
    pub(super) fn machine(&self, vm: &VmId) -> Option<MachineHandle> {
        match &self.known.borrow().get(vm)?.stage {
            Stage::Launched { handle, .. } => Some(handle.clone()),
            Stage::Launching => None,
        }
    }

    /// Every launched machine.
    pub(super) fn launched(&self) -> Vec<MachineHandle> {
        let known = self.known.borrow();
        let handle = |known: &Known| match &known.stage {
            Stage::Launched { handle, .. } => Some(handle.clone()),
            Stage::Launching => None,
        };
        known.values().filter_map(handle).collect()
    }

    /// Every machine, as a worker is to find it.
    pub(super) fn listing(&self) -> Vec<MachineListing> {
        let known = self.known.borrow();
        let listing = |(vm, known): (&VmId, &Known)| {
            let (status, counters, health, released) = match &known.stage {
                Stage::Launching => (MachineStatus::booting(), None, ThreadHealth::default(), false),
                Stage::Launched { handle, released } => {
                    let status = handle.status().borrow().clone();
                    // After the status: those of a machine that has ended are its last ones.
                    let counters = Some(Box::new(handle.counters()));
                    (status, counters, *handle.health().borrow(), *released)
                }
            };
            let (notes, launched_ago) = (known.notes.clone(), known.requested.elapsed());
            let launching = matches!(known.stage, Stage::Launching);
            let vm = vm.clone();
            MachineListing { vm, status, counters, health, notes, launched_ago, released, launching }
        };
        known.iter().map(listing).collect()
    }

    pub(super) fn set_place(&self, place: Place) {
        self.place.replace(Some(place));
    }

    pub(super) fn has_place(&self) -> bool {
        self.place.borrow().is_some()
    }

    pub(super) fn take_place(&self) -> Option<Place> {
        self.place.take()
    }

    /// Asks for the end of all machines and the process.
    pub(super) fn end(&self, patience: Duration) {
        // The least patient one counts.
        let patience = self.end.get().map_or(patience, |before| before.min(patience));
        self.end.set(Some(patience));
        self.changed.notify_waiters();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.end.get().is_some()
    }

    /// Returns how patient the end is to be, when it is asked for.
    pub(super) async fn told_to_end(&self) -> Duration {
        loop {
            if let Some(patience) = self.end.get() {
                return patience;
            }
            self.changed.notified().await;
        }
    }

    /// Returns when there is neither a connection nor a machine.
    pub(super) async fn idle(&self) {
        while self.slots.get() > 0 || !self.known.borrow().is_empty() {
            self.changed.notified().await;
        }
    }

    /// Returns when every machine is released or gone.
    pub(super) async fn all_released(&self) {
        let is_over = |known: &Known| matches!(known.stage, Stage::Launched { released: true, .. });
        while !self.known.borrow().values().all(is_over) {
            self.changed.notified().await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.slots.set(self.0.slots.get().saturating_sub(1));
        self.0.changed.notify_waiters();
    }
}

//! VMs that were removed and are kept for a while. One may come back at any time until its deletion begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vm_model::{RemovedVm, Timestamp, VmId};

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<VmId, RemovedVm>,
    /// Those that are being deleted now.
    going: BTreeSet<VmId>,
}

/// The removed VMs of a host.
#[derive(Debug, Default)]
pub(crate) struct RemovedVms {
    /// Protects both lists. Held for moments.
    state: Mutex<State>,
    /// Told when a deletion is over.
    over: Notify,
}

/// A deletion under way; dropping it says that it is over.
#[derive(Debug)]
pub(crate) struct Deletion<'a> {
    of: &'a RemovedVms,
    id: VmId,
    vm: RemovedVm,
}

impl RemovedVms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a VM that was removed.
    pub(crate) fn put(&self, vm: RemovedVm) {
        self.state().kept.insert(vm.assignment.id.clone(), vm);
    }

    /// All of them.
    pub(crate) fn list(&self) -> BTreeMap<VmId, RemovedVm> {
        self.state().kept.clone()
    }

    /// Until when `id` is kept, if it was removed.
    pub(crate) fn until(&self, id: &VmId) -> Option<Timestamp> {
        self.state().kept.get(id).map(|vm| vm.kept_until)
    }

    /// `id` is a VM again. Where it is being deleted just now, that is waited for.
    pub(crate) async fn revive(&self, id: &VmId) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            // From here on a word is not missed.
            over.as_mut().enable();
            {
                let mut state = self.state();
                if !state.going.contains(id) {
                    state.kept.remove(id);
                    return;
                }
            }
            over.await;
        }
    }

    /// Begins to delete `id` or a part of it, unless it came back or is being deleted already. Where something of it is left,
    /// say [`Deletion::put_back`].
    pub(crate) fn begin_deletion(&self, id: &VmId) -> Option<Deletion<'_>> {
        let mut state = self.state();
        if state.going.contains(id) {
            return None;
        }
        let vm = state.kept.remove(id)?;
        state.going.insert(id.clone());
        Some(Deletion { of: self, id: id.clone(), vm })
    }
}

impl Deletion<'_> {
    /// The VM is still there, and kept for as long as before.
    pub(crate) fn put_back(self) {
        let mut state = self.of.state();
        state.kept.insert(self.id.clone(), self.vm.clone());
        state.going.remove(&self.id);
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.of.state().going.remove(&self.id);
        self.of.over.notify_waiters();
    }
}

//! VMs that were removed and are kept for a while. One may come back at any time until its deletion begins; from then on it is
//! deleted to the end, by the next worker if need be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vm_model::{RemovedVm, Timestamp, VmId};

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<VmId, RemovedVm>,
    /// Those whose deletion was begun and is not over: nothing brings them back.
    unfinished: BTreeMap<VmId, RemovedVm>,
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

    /// Keeps a VM whose deletion was begun, until it is finished.
    pub(crate) fn put_unfinished(&self, vm: RemovedVm) {
        self.state().unfinished.insert(vm.assignment.id.clone(), vm);
    }

    /// The VMs whose deletion was begun and is to be finished.
    pub(crate) fn unfinished(&self) -> Vec<VmId> {
        self.state().unfinished.keys().cloned().collect()
    }

    /// All that can come back.
    pub(crate) fn list(&self) -> BTreeMap<VmId, RemovedVm> {
        self.state().kept.clone()
    }

    /// Until when `id` is kept, if it was removed.
    pub(crate) fn until(&self, id: &VmId) -> Option<Timestamp> {
        let state = self.state();
        state.kept.get(id).or_else(|| state.unfinished.get(id)).map(|vm| vm.kept_until)
    }

    /// `id` is a VM again; what an unfinished deletion left of it is for the caller to delete. Where it is being deleted just now, that is waited for.
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
                    state.unfinished.remove(id);
                    return;
                }
            }
            over.await;
        }
    }

    /// Begins to delete `id` or a part of it, unless it came back or is being deleted already. Where something of it is left,
    /// say [`Deletion::put_back`] or [`Deletion::leave_unfinished`].
    pub(crate) fn begin_deletion(&self, id: &VmId) -> Option<Deletion<'_>> {
        self.take(id, |state| &mut state.kept)
    }

    /// Goes on with a deletion of `id` that was begun, unless that is being done already.
    pub(crate) fn resume_deletion(&self, id: &VmId) -> Option<Deletion<'_>> {
        self.take(id, |state| &mut state.unfinished)
    }

    fn take(
        &self,
        id: &VmId,
        list: impl FnOnce(&mut State) -> &mut BTreeMap<VmId, RemovedVm>,
    ) -> Option<Deletion<'_>> {
        let mut state = self.state();
        if state.going.contains(id) {
            return None;
        }
        let vm = list(&mut state).remove(id)?;
        state.going.insert(id.clone());
        Some(Deletion { of: self, id: id.clone(), vm })
    }
}

impl Deletion<'_> {
    /// What is being deleted.
    pub(crate) fn id(&self) -> &VmId {
        &self.id
    }

    /// The VM is still there, and kept for as long as before.
    pub(crate) fn put_back(self) {
        let mut state = self.of.state();
        state.kept.insert(self.id.clone(), self.vm.clone());
        state.going.remove(&self.id);
    }

    /// A part of the VM may be gone, and the rest is to follow.
    pub(crate) fn leave_unfinished(self) {
        let mut state = self.of.state();
        state.unfinished.insert(self.id.clone(), self.vm.clone());
        state.going.remove(&self.id);
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.of.state().going.remove(&self.id);
        self.of.over.notify_waiters();
    }
}

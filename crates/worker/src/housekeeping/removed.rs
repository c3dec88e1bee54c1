//! VMs that were removed and are kept for a while. One may come back at any time until its deletion begins; from then on it is
//! deleted to the end, by the next worker if need be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// VMs that held no data and of which nothing is left, newest last: what they were assigned as.
    remembered: VecDeque<RemovedVm>,
}

/// So many VMs of which nothing is left are remembered.
const REMEMBERED: usize = 256;

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

    /// Remembers what a VM was of which nothing is left, as long as this worker runs: it can be assigned again as it was.
    pub(crate) fn remember(&self, vm: RemovedVm) {
        let mut state = self.state();
        state.remembered.retain(|known| known.assignment.id != vm.assignment.id);
        state.remembered.push_back(vm);
        let beyond = state.remembered.len().saturating_sub(REMEMBERED);
        state.remembered.drain(..beyond);
    }

    /// What `id` was, which was removed and is kept, or remembered, at `now`.
    pub(crate) fn recall(&self, id: &VmId, now: Timestamp) -> Option<RemovedVm> {
        let state = self.state();
        let remembered = state.remembered.iter().find(|vm| vm.assignment.id == *id && vm.kept_until > now);
        state.kept.get(id).or(remembered).cloned()
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

    /// Whether the deletion of `id`, or of a part of it, has begun and is not over.
    pub(crate) fn is_being_deleted(&self, id: &VmId) -> bool {
        let state = self.state();
        state.unfinished.contains_key(id) || state.going.contains(id)
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
                    state.remembered.retain(|known| known.assignment.id != *id);
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
        // That nobody is at it any more is said when this is dropped, and by that alone.
        state.kept.insert(self.id.clone(), self.vm.clone());
    }

    /// A part of the VM may be gone, and the rest is to follow.
    pub(crate) fn leave_unfinished(self) {
        let mut state = self.of.state();
        state.unfinished.insert(self.id.clone(), self.vm.clone());
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.of.state().going.remove(&self.id);
        self.of.over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use vm_model::Assignment;

    use super::*;

    #[test]
    fn so_many_vms_without_data_are_remembered_until_their_time_is_over() {
        let removed = RemovedVms::default();
        let (now, until) = (Timestamp::from_millis(1000), Timestamp::from_millis(2000));
        for number in 0..=REMEMBERED {
            let assignment = Assignment::new(VmId::new(&format!("vm-{number}")), "", "/x");
            removed.remember(RemovedVm { assignment, removed_at: now, kept_until: until });
        }
        let recalled = |id: &str, at| removed.recall(&VmId::new(id), at).is_some();
        assert!(!recalled("vm-0", now), "the oldest is forgotten");
        assert!(recalled("vm-1", now) && recalled("vm-256", now));
        assert!(!recalled("vm-1", until));
        assert!(removed.list().is_empty(), "nothing of them is kept");
    }
}

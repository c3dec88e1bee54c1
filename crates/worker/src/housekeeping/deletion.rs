//! Deleting a VM with everything that belongs to it.
//!
//! ```text
//! record says: deleting ── volumes moved and deleted ── addresses released ── directory moved and deleted
//! ```
//!
//! The record says so before anything is gone and goes last, so that a worker which finds it finishes what was begun, and
//! does not take a VM of which half is gone for one that is kept.
//!
//! The VM's lock is held meanwhile: while a process runs the VM, which may be one that this worker could not take over,
//! nothing of it is deleted.

use std::sync::Arc;

use fail_points::{FailPoint, pass};
use tracing::{info, warn};
use vm_model::{Timestamp, VmId};

use super::keeper::PATIENCE;
use super::removed::Deletion;
use crate::failure::chain;
use crate::records::{IdleVm, Removal, RemovalStage};
use crate::supervisor::HostContext;

/// A deletion that was begun has a part left to do.
#[derive(Debug)]
pub(super) struct Unfinished;

impl HostContext {
    /// Deletes all that is left of a removed VM; answers whether there was anything.
    pub(super) fn delete_removed(&self, id: &VmId) -> Result<bool, String> {
        let Some(deletion) = self.removed.begin_deletion(id) else { return Ok(false) };
        match self.lock_idle(id) {
            Ok(idle) => self.delete_whole(deletion, &idle).map(|()| true),
            Err(problem) => {
                deletion.put_back();
                Err(problem)
            }
        }
    }

    /// Keeps `id` from being run until what is answered is dropped, unless a process runs it.
    pub(crate) fn lock_idle(&self, id: &VmId) -> Result<IdleVm, String> {
        self.records.lock_idle(id).map_err(|problem| chain(&problem))
    }

    /// Deletes the VM that `deletion` is of. One that could not be marked is still kept.
    pub(super) fn delete_whole(&self, deletion: Deletion<'_>, idle: &IdleVm) -> Result<(), String> {
        if let Err(problem) = self.mark_for_deletion(deletion.id()) {
            deletion.put_back();
            return Err(problem);
        }
        self.delete_marked(deletion.id(), idle).inspect_err(|_| deletion.leave_unfinished())
    }

    /// Finishes the deletions that were begun, by this worker or one before. What cannot be deleted is logged.
    pub(super) fn finish_deletions(self: &Arc<Self>) -> Result<(), Unfinished> {
        let mut done = Ok(());
        for id in self.removed.unfinished() {
            let (host, vm) = (Arc::clone(self), id.clone());
            let finishing = move || host.finish_deletion(&vm);
            // A disk that does not answer is in nobody else's way.
            let finished = self.own_threads.run_within(id.as_str(), "delete", PATIENCE, finishing);
            let finished = finished.unwrap_or_else(|| Err("its disk may not answer".to_owned()));
            if let Err(problem) = finished {
                warn!(vm_id = %id, error = problem, "its deletion is not finished; trying again later");
                done = Err(Unfinished);
            }
        }
        done
    }

    /// Finishes the deletion of `id`, unless somebody is at it.
    fn finish_deletion(&self, id: &VmId) -> Result<(), String> {
        let Some(deletion) = self.removed.resume_deletion(id) else { return Ok(()) };
        match self.lock_idle(id).and_then(|idle| self.delete_marked(id, &idle)) {
            Ok(()) => info!(vm_id = %id, "its deletion, which had been cut short, is finished"),
            Err(problem) => {
                deletion.leave_unfinished();
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Deletes everything that is there of `id`, which is `idle`. Blocks.
    pub(crate) fn forget(&self, id: &VmId, idle: &IdleVm) -> Result<(), String> {
        self.mark_for_deletion(id)?;
        self.delete_marked(id, idle)
    }

    /// Puts on record that everything of `id` is to go. Without a record there is nothing that could come back.
    fn mark_for_deletion(&self, id: &VmId) -> Result<(), String> {
        let record = self.records.load(id).map_err(|problem| chain(&problem))?;
        let Some(mut record) = record else { return Ok(()) };
        if record.removal_stage() != Some(RemovalStage::Deleting) {
            let now = Timestamp::now();
            let at = record.removed.map_or(now, |removal| removal.at);
            record.removed = Some(Removal { at, until: now, stage: RemovalStage::Deleting });
            self.records.save(&record).map_err(|problem| chain(&problem))?;
        }
        pass(FailPoint::RemovalMarked);
        Ok(())
    }

    /// Deletes everything of `id`, and last the record that says so. The lock of the VM is held until its directory is gone.
    fn delete_marked(&self, id: &VmId, _idle: &IdleVm) -> Result<(), String> {
        self.volumes.delete_all(id).map_err(|problem| chain(&problem))?;
        pass(FailPoint::RemovalVolumesDeleted);
        self.leases.release(id).map_err(|problem| chain(&problem))?;
        pass(FailPoint::RemovalLeasesReleased);
        self.gc_roots.release(id);
        self.records.remove(id).map_err(|problem| chain(&problem))?;
        pass(FailPoint::RemovalDone);
        Ok(())
    }
}

//! Deleting what was kept: by the clock, by word, and to make room.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::{Timestamp, VmId, VolumeInfo, VolumeKeep};

use super::kept::{Kept, kept_until, what_is_due};
use crate::failure::chain;
use crate::records::Removal;
use crate::supervisor::{GivenUp, HostContext};
use crate::vms::KeptSelection;
use crate::volumes::{ContentRef, StageRequest, Staged, VolumeError};

/// How long to wait after something could not be deleted.
const RETRY: Duration = Duration::from_secs(60);

/// Deletes what is due, for as long as the host is there.
pub(crate) async fn keep_house(context: Weak<HostContext>) {
    loop {
        let Some(host) = context.upgrade() else { return };
        let news = Arc::clone(&host.kept_changed);
        let told = news.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        let looking = tokio::task::spawn_blocking(move || host.delete_what_is_due(Timestamp::now()));
        let next = looking.await.unwrap_or(Some(RETRY));
        let due = async {
            match next {
                Some(next) => sleep(next).await,
                None => std::future::pending().await,
            }
        };
        // Both arms only wait, so losing either loses nothing.
        tokio::select! {
            () = told => {}
            () = due => {}
        }
    }
}

/// Whether `kept` is one of those that are meant.
fn is_selected(kept: &Kept, which: &KeptSelection) -> bool {
    match (which, kept) {
        (KeptSelection::All, _) => true,
        (KeptSelection::Vm(id), Kept::Vm(vm) | Kept::Content(ContentRef { vm, .. })) => vm == id,
        (KeptSelection::Volume(id, name), Kept::Content(ContentRef { vm, disk, .. })) => {
            vm == id && disk == name
        }
        (KeptSelection::Volume(..), Kept::Vm(_)) => false,
    }
}

impl HostContext {
    /// Everything that is kept until a moment, the first to go first.
    fn kept(&self) -> Result<Vec<(Timestamp, Kept)>, VolumeError> {
        let removed = self.removed.list();
        let volumes = self.volumes.list(|vm| removed.get(vm).map(|vm| vm.kept_until))?;
        Ok(kept_until(removed.into_iter().map(|(id, vm)| (id, vm.kept_until)), &volumes))
    }

    /// Deletes what is due at `now`; answers when to look again.
    fn delete_what_is_due(&self, now: Timestamp) -> Option<Duration> {
        let (due, next) = match self.kept() {
            Ok(kept) => what_is_due(kept, now),
            Err(problem) => {
                warn!(
                    error = chain(&problem),
                    "what is due to be deleted cannot be known; looking again later"
                );
                return Some(RETRY);
            }
        };
        let mut again = next;
        for kept in due {
            match self.delete_kept(&kept) {
                Ok(true) => info!(what = %kept, "deleted: its time is over"),
                Ok(false) => {}
                Err(problem) => {
                    warn!(what = %kept, error = problem, "not deleted; trying again later");
                    again = Some(RETRY);
                }
            }
        }
        again
    }

    /// Every content of every volume.
    pub(crate) fn list_volumes(&self) -> Result<Vec<VolumeInfo>, String> {
        self.volumes.list(|vm| self.removed.until(vm)).map_err(|problem| chain(&problem))
    }

    /// Deletes at once what is selected of everything that is kept; answers what that was.
    pub(crate) fn delete_selected(&self, which: &KeptSelection) -> Result<Vec<String>, String> {
        let kept = self.kept().map_err(|problem| chain(&problem))?;
        // What is kept until it is deleted by word goes by a word that names it.
        let by_word = self.list_volumes()?.into_iter().filter_map(|volume| match volume.keep {
            VolumeKeep::Unused { until: None } => {
                Some(Kept::Content(ContentRef { vm: volume.vm, disk: volume.disk, number: volume.number }))
            }
            VolumeKeep::Unused { until: Some(_) }
            | VolumeKeep::InUse
            | VolumeKeep::Replaced { .. }
            | VolumeKeep::Removed { .. } => None,
        });
        let by_word = by_word.filter(|_| *which != KeptSelection::All);
        let mut deleted = Vec::new();
        for kept in kept.into_iter().map(|(_, kept)| kept).chain(by_word) {
            if is_selected(&kept, which) && self.delete_kept(&kept)? {
                info!(what = %kept, "deleted by word");
                deleted.push(kept.to_string());
            }
        }
        Ok(deleted)
    }

    /// Deletes one kept thing; answers whether it was still kept.
    pub(crate) fn delete_kept(&self, kept: &Kept) -> Result<bool, String> {
        match kept {
            Kept::Vm(id) => self.delete_removed(id),
            Kept::Content(content) => self.volumes.delete(content).map_err(|problem| chain(&problem)),
        }
    }

    /// Deletes all that is left of a removed VM; answers whether there was anything.
    fn delete_removed(&self, id: &VmId) -> Result<bool, String> {
        let Some(deletion) = self.removed.begin_deletion(id) else { return Ok(false) };
        match self.forget(id) {
            Ok(()) => Ok(true),
            Err(problem) => {
                deletion.failed();
                Err(problem)
            }
        }
    }

    /// Deletes everything that is there of `id`: volumes, addresses, and last the record, by which the rest is found again
    /// where this is cut short.
    pub(crate) fn forget(&self, id: &VmId) -> Result<(), String> {
        // Seen by the next worker, should this one not get to the end.
        if let Ok(Some(mut record)) = self.records.load(id) {
            let now = Timestamp::now();
            record.removed =
                Some(Removal { at: record.removed.map_or(now, |removal| removal.at), until: now });
            self.records.save(&record).map_err(|problem| chain(&problem))?;
        }
        self.volumes.delete_all(id).map_err(|problem| chain(&problem))?;
        self.leases.release(id).map_err(|problem| chain(&problem))?;
        self.records.remove(id).map_err(|problem| chain(&problem))
    }

    /// Lets go of a volume whose content cannot be used, so that it is made anew: what is left of it goes. One that can be
    /// used stays as it is. No machine of `vm` may run.
    pub(crate) fn release_unusable(&self, vm: &VmId, disk: &str) -> Result<(), String> {
        if self.volumes.delete_if_unusable(vm, disk).map_err(|problem| chain(&problem))? {
            warn!(vm_id = %vm, disk, "deleted by word: the volume could not be used");
        }
        Ok(())
    }

    /// Deletes the kept thing that would go first; answers whether there was any.
    pub(crate) fn make_room(&self) -> bool {
        let Ok(kept) = self.kept() else { return false };
        kept.into_iter().any(|(_, kept)| match self.delete_kept(&kept) {
            Ok(true) => {
                warn!(what = %kept, "deleted before its time: the disk is full");
                true
            }
            Ok(false) => false,
            Err(problem) => {
                warn!(what = %kept, error = problem, "not deleted, although the disk is full");
                false
            }
        })
    }

    /// Stages a volume; what is kept goes for it where there is no space.
    pub(crate) fn stage_volume(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        given_up: &GivenUp,
    ) -> Result<Staged, VolumeError> {
        loop {
            match self.volumes.stage(vm, request, given_up) {
                Err(problem) if problem.is_for_want_of_space() && self.make_room() => {}
                staged => return staged,
            }
        }
    }
}

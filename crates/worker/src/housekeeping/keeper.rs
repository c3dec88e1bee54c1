//! Deleting what was kept: by the clock, by word, and to make room.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::{Timestamp, VmId, VolumeInfo, VolumeKeep};

use super::kept::{Cleared, Kept, kept_until, what_is_due};
use crate::failure::chain;
use crate::supervisor::{GivenUp, HostContext};
use crate::vms::KeptSelection;
use crate::volumes::{ContentRef, Preview, Seeded, StageRequest, Staged, Thoroughness, VolumeError};

/// How long to wait after something could not be deleted.
const RETRY: Duration = Duration::from_secs(60);

/// How long after the worker's start nothing is deleted by the clock: by then the clock has been set, and what should run
/// has been asked for.
const FIRST: Duration = Duration::from_secs(120);

/// How long the deletion of one thing may take until others are looked at. It goes on.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What is told of volumes of a VM whose deletion has begun.
const BEING_DELETED: &str = "its VM was removed and is being deleted; it does not come back";

/// Why a kept thing is still there.
#[derive(Debug, Error)]
enum NotDeleted {
    #[error("{0}")]
    Failed(String),
    #[error("{0} is still being deleted after {seconds} s: its disk may not answer", seconds = PATIENCE.as_secs())]
    UnderWay(Kept),
}

/// Deletes what is due, for as long as the host is there.
pub(crate) async fn keep_house(context: Weak<HostContext>) {
    let started = Timestamp::now();
    let begun = Instant::now();
    loop {
        let Some(host) = context.upgrade() else { return };
        let news = Arc::clone(&host.kept_changed);
        let told = news.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        let early = FIRST.checked_sub(begun.elapsed());
        let looking = tokio::task::spawn_blocking(move || host.delete_what_is_due(started, early));
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

fn of_removed(vm: &VmId, disk: &str) -> String {
    format!("volume {vm}/{disk} of {vm}, which was removed")
}

impl HostContext {
    /// Everything that is kept until a moment, the first to go first.
    fn kept(&self) -> Result<Vec<(Timestamp, Kept)>, VolumeError> {
        let removed = self.removed.list();
        let volumes = self.volumes.list(|vm| removed.get(vm).map(|vm| vm.kept_until))?;
        Ok(kept_until(removed.into_iter().map(|(id, vm)| (id, vm.kept_until)), &volumes))
    }

    /// Deletes what is due now; answers when to look again. What was due when the worker `started` waits where that is not
    /// long ago, for as long as `early` says.
    fn delete_what_is_due(self: &Arc<Self>, started: Timestamp, early: Option<Duration>) -> Option<Duration> {
        // The clock has no say in what was begun.
        let unfinished = self.finish_deletions();
        let (due, next) = match self.kept() {
            Ok(mut kept) => {
                let was_due = kept.iter().any(|(until, _)| *until <= started);
                if early.is_some() {
                    kept.retain(|(until, _)| *until > started);
                }
                let (due, next) = what_is_due(kept, Timestamp::now());
                let waiting = early.filter(|_| was_due);
                (due, next.into_iter().chain(waiting).min())
            }
            Err(problem) => {
                warn!(
                    error = chain(&problem),
                    "what is due to be deleted cannot be known; looking again later"
                );
                return Some(RETRY);
            }
        };
        let retry = unfinished.err().map(|_| RETRY);
        let mut again = next.into_iter().chain(retry).min();
        for kept in due {
            match self.delete_aside(&kept) {
                Ok(true) => info!(what = %kept, "deleted: its time is over"),
                Ok(false) => {}
                Err(problem) => {
                    warn!(what = %kept, error = %problem, "not deleted; trying again later");
                    again = Some(RETRY);
                }
            }
        }
        again
    }

    /// Every content of every volume.
    pub(crate) fn list_volumes(&self) -> Result<Vec<VolumeInfo>, String> {
        let mut volumes =
            self.volumes.list(|vm| self.removed.until(vm)).map_err(|problem| chain(&problem))?;
        for volume in volumes.iter_mut().filter(|volume| self.removed.is_being_deleted(&volume.vm)) {
            (volume.keep, volume.problem) = (VolumeKeep::Unknown, Some(BEING_DELETED.to_owned()));
        }
        Ok(volumes)
    }

    /// Whether `disk` is the last that holds anything of `vm`, which was removed: with it goes what the VM could come back to.
    pub(crate) fn is_last_of_removed(&self, vm: &VmId, disk: &str) -> Result<bool, String> {
        let is_removed = self.removed.list().contains_key(vm);
        let is_there = |volume: &VolumeInfo| volume.vm == *vm && volume.disk == disk;
        if !is_removed || !self.list_volumes()?.iter().any(is_there) {
            return Ok(false);
        }
        let others = self.volumes.holds_data_beside(vm, Some(disk)).map_err(|problem| chain(&problem))?;
        Ok(!others)
    }

    /// Deletes at once what is selected of everything that is kept; answers what that was.
    pub(crate) fn delete_selected(self: &Arc<Self>, which: &KeptSelection) -> Result<Cleared, String> {
        if let KeptSelection::Volume(vm, disk) = which
            && let Some(deleted) = self.delete_volume_of_removed(vm, disk)?
        {
            return Ok(Cleared::deleted(vec![deleted]));
        }
        let mut deleted = Vec::new();
        for kept in self.selected(which)? {
            if self.delete_aside(&kept).map_err(|problem| problem.to_string())? {
                info!(what = %kept, "deleted by word");
                deleted.push(kept.to_string());
            }
        }
        Ok(Cleared::deleted(deleted))
    }

    /// What is selected of everything that is kept.
    fn selected(&self, which: &KeptSelection) -> Result<Vec<Kept>, String> {
        let kept = self.kept().map_err(|problem| chain(&problem))?;
        // What is kept until it is deleted by word goes by a word that names it.
        let by_word = self.list_volumes()?.into_iter().filter_map(|volume| match volume.keep {
            VolumeKeep::Unused { until: None } => {
                Some(Kept::Content(ContentRef { vm: volume.vm, disk: volume.disk, number: volume.number }))
            }
            VolumeKeep::Unused { until: Some(_) }
            | VolumeKeep::InUse
            | VolumeKeep::Replaced { .. }
            | VolumeKeep::Removed { .. }
            | VolumeKeep::Unknown => None,
        });
        let by_word = by_word.filter(|_| *which != KeptSelection::All);
        let all = kept.into_iter().map(|(_, kept)| kept).chain(by_word);
        Ok(all.filter(|kept| is_selected(kept, which)).collect())
    }

    /// What would be deleted at once of what is selected, in words, and what would be set aside.
    pub(crate) fn show_selected(&self, which: &KeptSelection) -> Result<Cleared, String> {
        if let KeptSelection::Volume(vm, disk) = which {
            let listed = self.list_volumes()?;
            let mut contents = listed.iter().filter(|content| content.vm == *vm && content.disk == *disk);
            if self.removed.list().contains_key(vm) && contents.clone().next().is_some() {
                return Ok(Cleared::deleted(vec![of_removed(vm, disk)]));
            }
            let unusable = contents.find_map(|content| content.problem.as_ref());
            if let Some(problem) = unusable
                && !self.removed.is_being_deleted(vm)
                && self.lock_idle(vm).is_ok()
            {
                return Ok(Cleared::set_aside(format!(
                    "volume {vm}/{disk}, which cannot be used: {problem}"
                )));
            }
        }
        Ok(Cleared::deleted(self.selected(which)?.iter().map(ToString::to_string).collect()))
    }

    /// As [`HostContext::delete_kept`], on a thread of the VM that it was of: a disk that does not answer is in nobody else's way.
    fn delete_aside(self: &Arc<Self>, kept: &Kept) -> Result<bool, NotDeleted> {
        let (host, what) = (Arc::clone(self), kept.clone());
        let deleting = move || host.delete_kept(&what);
        match self.own_threads.run_within(kept.vm().as_str(), "delete", PATIENCE, deleting) {
            Some(deleted) => deleted.map_err(NotDeleted::Failed),
            None => Err(NotDeleted::UnderWay(kept.clone())),
        }
    }

    /// Deletes one kept thing; answers whether it was still kept.
    fn delete_kept(&self, kept: &Kept) -> Result<bool, String> {
        match kept {
            Kept::Vm(id) => self.delete_removed(id),
            Kept::Content(content) => self.volumes.delete(content).map_err(|problem| chain(&problem)),
        }
    }

    /// Deletes one volume of a removed VM, which stays to come back to with its others; with the last one that holds
    /// anything, what is left of the VM goes, too. Answers in words what was deleted; nothing where the VM was not removed
    /// or has no such volume.
    fn delete_volume_of_removed(&self, id: &VmId, disk: &str) -> Result<Option<String>, String> {
        // The VM does not come back while its volume is being deleted.
        let Some(deletion) = self.removed.begin_deletion(id) else { return Ok(None) };
        let idle = match self.lock_idle(id) {
            Ok(idle) => idle,
            Err(problem) => {
                deletion.put_back();
                return Err(problem);
            }
        };
        let deleted = self.volumes.delete_volume(id, disk);
        let is_left = deleted.and_then(|deleted| Ok((deleted, self.volumes.holds_data(id)?)));
        match is_left.map_err(|problem| chain(&problem)) {
            Ok((true, false)) => {
                self.delete_whole(deletion, &idle)?;
            }
            Ok((true, true)) => deletion.put_back(),
            Ok((false, _)) => {
                deletion.put_back();
                return Ok(None);
            }
            Err(problem) => {
                deletion.put_back();
                return Err(problem);
            }
        }
        let what = of_removed(id, disk);
        info!(what, "deleted by word");
        Ok(Some(what))
    }

    /// Sets aside what of a volume cannot be used, so that it is made anew; answers in words what was done. One that can be
    /// used stays as it is. Refused while a machine of `vm` runs.
    pub(crate) fn set_aside(&self, vm: &VmId, disk: &str) -> Result<Option<String>, String> {
        let _idle = self.lock_idle(vm)?;
        let done = self.volumes.set_aside(vm, disk, self.lifecycle.removal_grace);
        let done = done.map_err(|problem| chain(&problem))?;
        if let Some(done) = &done {
            warn!(vm_id = %vm, "set aside by word: {done}");
            self.kept_changed.notify_waiters();
        }
        Ok(done)
    }

    /// Deletes the kept thing that would go first, but nothing of `vm`, which may be about to go back to it; answers whether
    /// there was any.
    fn make_room(self: &Arc<Self>, vm: &VmId) -> bool {
        let Ok(kept) = self.kept() else { return false };
        let others = kept.into_iter().filter(|(_, kept)| kept.vm() != vm);
        for (_, kept) in others {
            match self.delete_aside(&kept) {
                Ok(true) => {
                    warn!(what = %kept, "deleted before its time: the disk is full");
                    return true;
                }
                Ok(false) => {}
                Err(problem) => {
                    warn!(what = %kept, error = %problem, "not deleted, although the disk is full");
                    // It may yet give all the space that is wanted: nothing else goes for that.
                    if matches!(problem, NotDeleted::UnderWay(_)) {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Stages a volume, of what was `seeded` where that is what it needs; what is kept goes for it where there is no space.
    pub(crate) fn stage_volume(
        self: &Arc<Self>,
        vm: &VmId,
        request: StageRequest<'_>,
        mut seeded: Option<Seeded>,
        given_up: &GivenUp,
    ) -> Result<Staged, VolumeError> {
        let needed = request.image.map_or(0, space_of);
        loop {
            match self.volumes.stage(vm, request, seeded.take(), given_up) {
                Err(problem)
                    if problem.is_for_want_of_space()
                        && self.would_help(vm, needed)
                        && self.make_room(vm) => {}
                staged => return staged,
            }
        }
    }

    /// What a start would do to a disk, given that what is kept goes for it where there is no space.
    pub(crate) fn preview_volume(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        thoroughness: Thoroughness,
        given_up: &GivenUp,
    ) -> Result<Preview, VolumeError> {
        let needed = request.image.map_or(0, space_of);
        let grace = self.lifecycle.removal_grace;
        let preview = self.volumes.preview(vm, request, thoroughness, grace, given_up)?;
        let obstacle = preview
            .obstacle
            .filter(|problem| !problem.is_for_want_of_space() || !self.would_help(vm, needed));
        Ok(Preview { obstacle, ..preview })
    }

    /// Makes sure that there is space for the copies of a trial of `staged`; what is kept goes for it where there is none.
    pub(crate) fn make_trial_space(
        self: &Arc<Self>,
        vm: &VmId,
        staged: &[Staged],
    ) -> Result<(), VolumeError> {
        let needed = self.volumes.trial_needs(vm, staged)?;
        loop {
            match self.volumes.check_trial_space(needed) {
                Err(_) if self.would_help(vm, needed.get()) && self.make_room(vm) => {}
                checked => return checked,
            }
        }
    }

    /// Whether there would be `needed` bytes if all that is kept for a while were deleted.
    fn would_help(&self, vm: &VmId, needed: u64) -> bool {
        let kept = |volume: &VolumeInfo| match volume.keep {
            VolumeKeep::Removed { .. } => true,
            VolumeKeep::Replaced { until } | VolumeKeep::Unused { until } => until.is_some(),
            VolumeKeep::InUse | VolumeKeep::Unknown => false,
        };
        let volumes = self.list_volumes().unwrap_or_default();
        let kept = volumes
            .iter()
            .filter(|volume| volume.vm != *vm && kept(volume))
            .map(|volume| volume.allocated.get());
        kept.fold(self.volumes.free_space(), u64::saturating_add) >= needed
    }
}

/// How many bytes a copy of `image` takes of the host's disk.
fn space_of(image: &File) -> u64 {
    image.metadata().map_or(0, |found| found.blocks().saturating_mul(512))
}

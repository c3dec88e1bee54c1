//! Disks of a definition on trial: they are written as copies, so that the contents before can be put back.
//!
//! ```text
//!                 record                             files
//! before          current 0                          0.img
//! copied          current 0                          0.img  1.staged
//! on trial        current 1, trial { before, 1, 0 }  0.img  1.img
//! taken back      current 0                          0.img
//! accepted        current 1                          1.img
//! ```
//!
//! Each step is one replacement of the record; a file that no record speaks of is deleted when the store is opened. A disk
//! that gets a new content anyway, because its image is another one, is not copied; its record remembers the way back too.
//! Accepting is a part of [`VolumeStore::settle`].

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::PoisonError;

use fail_points::{FailPoint, pass};
use rustix::fs::{OFlags, ioctl_ficlone};
use vm_model::{Bytes, VmId, VolumePolicy};

use super::copy::{failed, make_file};
use super::decide::{Decision, VolumeProblem, check};
use super::directory::VolumeDirectory;
use super::error::VolumeError;
use super::record::{VolumeRecord, VolumeTrial};
use super::staged_file::StagedFile;
use super::staging::{Purpose, Staged};
use super::store::VolumeStore;
use super::switch::restored;
use crate::supervisor::GivenUp;

impl VolumeStore {
    /// How many bytes copying what `staged` goes on with will take of the host's disk: none where the file system shares
    /// blocks between files.
    pub(crate) fn trial_needs(&self, vm: &VmId, staged: &[Staged]) -> Result<Bytes, VolumeError> {
        let mut needed = 0_u64;
        for volume in staged {
            let directory = self.volume(vm, &volume.disk);
            let Some(record) = self.load(&directory)? else { continue };
            let Some((from, _)) = goes_on_with(volume.decision, &record) else { continue };
            if !shares_blocks(&directory) {
                let found = directory.find(from);
                needed = needed.saturating_add(found.map_or(0, |found| found.blocks().saturating_mul(512)));
            }
        }
        Ok(Bytes::new(needed))
    }

    /// The error of a trial for whose copies there are not the `needed` bytes; nothing where there are.
    pub(crate) fn check_trial_space(&self, needed: Bytes) -> Result<(), VolumeError> {
        let free = self.free_space();
        if free >= needed.get() {
            return Ok(());
        }
        let problem = format!(
            "No space left on device: a rollout that can be rolled back needs a copy of {needed}, and {} are free",
            Bytes::new(free)
        );
        let problem = io::Error::new(io::ErrorKind::StorageFull, problem);
        Err(failed("copy", self.root(), problem).into())
    }

    /// Makes `staged` ready for a trial: a content that the disk goes on with is copied, and the copy is what is switched
    /// over to. No machine of `vm` may run. Takes as long as copying does where blocks cannot be shared.
    pub(crate) fn stage_trial(
        &self,
        vm: &VmId,
        staged: Staged,
        given_up: &GivenUp,
    ) -> Result<Staged, VolumeError> {
        if staged.legacy.is_some() {
            return Ok(staged);
        }
        let directory = self.volume(vm, &staged.disk);
        let (record, sizes) = self.look(vm, &staged.disk, &directory)?;
        let source = record.as_ref().and_then(|record| goes_on_with(staged.decision, record));
        let (Some(record), Some((from, grow))) = (record, source) else {
            return Ok(Staged { purpose: Purpose::Trial { copied_from: None }, ..staged });
        };
        let problem = |source| VolumeError::Problem {
            vm: vm.clone(),
            disk: staged.disk.clone(),
            path: directory.path().to_owned(),
            source,
        };
        let content = record.contents.get(&from).ok_or_else(|| problem(VolumeProblem::Missing))?;
        let found = check(content, sizes.get(&from).copied()).map_err(problem)?;
        let free = sizes.keys().next_back().map_or(0, |last| last.saturating_add(1));
        let number = record.next.max(free);
        let path = directory.content(from);
        let source = directory.open(from).map_err(|source| failed("open", &path, source))?;
        let path = directory.staged(number);
        let file = make_file(Some(&source), grow.unwrap_or(found).get(), &path, given_up)?;
        pass(FailPoint::VolumeCopied);
        Ok(Staged {
            decision: Decision::Seed { number },
            file: Some(StagedFile::new(path, file)),
            purpose: Purpose::Trial { copied_from: Some(from) },
            ..staged
        })
    }

    /// Puts the disks of `vm` back to what they were before the definition on trial; those that were made for it are
    /// deleted. No machine of `vm` may run. Disks that are not on trial stay as they are, so it can be called again.
    pub(crate) fn take_trial_back(&self, vm: &VmId) -> Result<(), VolumeError> {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        for disk in self.disks_of(vm)? {
            let directory = self.volume(vm, &disk);
            let Some(record) = self.load(&directory)? else { continue };
            let Some(VolumeTrial { before, made, .. }) = record.trial.as_deref() else { continue };
            let Some(before) = before else {
                self.remove(vm, &disk)?;
                continue;
            };
            match before.policy {
                VolumePolicy::FromImage | VolumePolicy::Persistent => self.know(vm, &disk)?,
                VolumePolicy::Ephemeral => self.unknow(vm, &disk)?,
            }
            directory.save(&restored(before, &record, Some(*made)))?;
            pass(FailPoint::VolumeTakenBack);
            let path = directory.content(*made);
            directory.delete(*made).map_err(|source| failed("delete", &path, source))?;
        }
        Ok(())
    }

    /// Accepts a trial that `record` still speaks of: its definition was accepted, and the worker ended before the disks
    /// were put in order. Its lock is held by who calls.
    pub(super) fn accept_leftover(
        &self,
        directory: &VolumeDirectory,
        mut record: VolumeRecord,
    ) -> Result<VolumeRecord, VolumeError> {
        if record.trial.is_none() {
            return Ok(record);
        }
        let source = record.accept_trial();
        directory.save(&record)?;
        if let Some(number) = source {
            let path = directory.content(number);
            directory.delete(number).map_err(|source| failed("delete", &path, source))?;
        }
        Ok(record)
    }
}

impl VolumeRecord {
    /// The content in use is there to stay. Answers the content that it was copied from, which the record does not speak of
    /// any more.
    pub(super) fn accept_trial(&mut self) -> Option<u64> {
        let source = self.trial.take()?.copied_from?;
        self.contents.remove(&source).map(|_| source)
    }
}

/// The content that a disk goes on with by `decision`, and the size it is to have if it is to grow; nothing where it gets
/// a new one.
fn goes_on_with(decision: Decision, record: &VolumeRecord) -> Option<(u64, Option<Bytes>)> {
    match decision {
        Decision::Keep { grow } => record.current.map(|current| (current, grow)),
        Decision::Restore { number, grow } => Some((number, grow)),
        Decision::Seed { .. } => None,
    }
}

/// Whether files in `directory` can share blocks (reflink): tried with the volume's record and a file without a name.
fn shares_blocks(directory: &VolumeDirectory) -> bool {
    let nameless = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
    let target = OpenOptions::new().write(true).custom_flags(nameless).mode(0o600).open(directory.path());
    let source = std::fs::File::open(directory.record());
    matches!((source, target), (Ok(source), Ok(target)) if ioctl_ficlone(&target, &source).is_ok())
}

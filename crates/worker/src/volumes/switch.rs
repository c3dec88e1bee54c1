//! Switching a disk over to what was staged for it, and taking that back.
//!
//! A disk that grows goes through these states on stable storage, and the record accepts the file's size in each of them:
//!
//! ```text
//! record         size A   size B, growing from A   size B, growing from A   size B
//! file           A        A                        B                        B
//! ```
//!
//! A switch that fails goes back to the content before, and what has begun to grow stays on record as growing: whichever
//! of the two sizes its file has then, the next start accepts it. Volumes never shrink.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::PoisonError;

use fail_points::{FailPoint, pass};
use vm_model::{Bytes, Timestamp, VmId, VolumePolicy};

use super::copy::failed;
use super::decide::{Decision, check};
use super::directory::{VolumeDirectory, remove_file};
use super::error::VolumeError;
use super::record::{Content, VolumeRecord, VolumeTrial};
use super::staging::{Purpose, Staged};
use super::store::VolumeStore;

/// A volume that was switched over to.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The disk's name in the machine's description.
    pub(crate) disk: String,
    /// Where its content lies.
    pub(crate) path: PathBuf,
    /// When its content was made. A copy for a trial has that of what it is a copy of.
    pub(crate) created: Timestamp,
    /// The content, open for reading and writing.
    pub(crate) file: Option<File>,
    /// The content that was switched over to.
    number: u64,
    /// What was on record before.
    before: Option<VolumeRecord>,
    /// Whether the content was made for this start.
    is_made: bool,
}

/// What a switch makes of the record.
struct Switch {
    record: VolumeRecord,
    number: u64,
    grow: Option<Bytes>,
    /// When the content was made that is switched over to.
    created: Timestamp,
}

impl VolumeStore {
    /// Switches a disk over to what was staged for it and opens it. No machine of `vm` may run. Where it fails, the disk is
    /// on the content of before.
    pub(crate) fn commit(&self, vm: &VmId, mut staged: Staged) -> Result<Committed, VolumeError> {
        let directory = self.volume(vm, &staged.disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.load(&directory)?;
        let before = before.map(|before| self.accept_leftover(&directory, before)).transpose()?;
        let found = directory.sizes().map_err(|source| failed("list", directory.path(), source))?;
        // A content may have been deleted since it was made ready, for its time or for want of space.
        let changed = || VolumeError::Changed { path: directory.path().to_owned() };
        let switch = switch(before.as_ref(), &found, &staged).ok_or_else(changed)?;
        let is_seeded = staged.file.is_some();
        if let Some(file) = &mut staged.file {
            file.hand_over();
        }
        let opened = directory.save(&switch.record).map_err(VolumeError::from);
        pass(FailPoint::VolumeSwitchRecorded);
        let opened = opened.and_then(|()| self.open_switched(vm, &staged.disk, &directory, &switch));
        let number = switch.number;
        let file = opened.inspect_err(|_| {
            self.take_back(vm, &staged.disk, before.as_ref(), &switch.record, is_seeded.then_some(number));
        })?;
        if let Some(legacy) = &staged.legacy {
            remove_file(legacy).map_err(|source| failed("take over", legacy, source))?;
        }
        // What was taken over holds data, whatever becomes of this start.
        let is_made = is_seeded && staged.legacy.is_none();
        let path = directory.content(number);
        let Staged { disk, .. } = staged;
        let created = switch.created;
        Ok(Committed { disk, path, created, file: Some(file), number, before, is_made })
    }

    /// Gives the content that was switched over to its name, opens it, and grows it where that is to be.
    fn open_switched(
        &self,
        vm: &VmId,
        disk: &str,
        directory: &VolumeDirectory,
        switch: &Switch,
    ) -> Result<File, VolumeError> {
        let Switch { record, number, grow, .. } = switch;
        let path = directory.content(*number);
        directory.adopt(*number).map_err(|source| failed("name", &path, source))?;
        pass(FailPoint::VolumeNamed);
        match record.policy {
            VolumePolicy::FromImage | VolumePolicy::Persistent => self.know(vm, disk)?,
            VolumePolicy::Ephemeral => self.unknow(vm, disk)?,
        }
        pass(FailPoint::VolumeNoted);
        let opened = directory.open(*number).map_err(|source| failed("open", &path, source))?;
        if let Some(size) = grow {
            let grown = opened.set_len(size.get()).and_then(|()| opened.sync_all());
            grown.map_err(|source| failed("grow", &path, source))?;
            pass(FailPoint::VolumeGrown);
            directory.save(&grown_up(record, *number))?;
        }
        Ok(opened)
    }

    /// Takes back a switch to `record` that failed. Nothing has been written to the content. Its failures are not told:
    /// the one that led here is. The content `made` for it is deleted, unless it is still the one on record.
    fn take_back(
        &self,
        vm: &VmId,
        disk: &str,
        before: Option<&VolumeRecord>,
        record: &VolumeRecord,
        made: Option<u64>,
    ) {
        let directory = self.volume(vm, disk);
        let Some(before) = before else {
            let _ = self.remove(vm, disk);
            return;
        };
        let _ = directory.save(&restored(before, record, made));
        let is_back = matches!(directory.load(), Ok(Some(found)) if found.current == before.current);
        if let Some(number) = made
            && is_back
        {
            let _ = directory.delete(number);
        }
    }

    /// Takes back a switch: the machine did not start, and no guest has written anything.
    pub(crate) fn undo(&self, vm: &VmId, committed: &Committed) -> Result<(), VolumeError> {
        let directory = self.volume(vm, &committed.disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = &committed.before else {
            return if committed.is_made { self.remove(vm, &committed.disk) } else { Ok(()) };
        };
        let Some(record) = self.load(&directory)? else { return Ok(()) };
        let made = committed.is_made.then_some(committed.number);
        directory.save(&restored(before, &record, made))?;
        pass(FailPoint::VolumeUndone);
        if let Some(number) = made {
            let path = directory.content(number);
            directory.delete(number).map_err(|source| failed("delete", &path, source))?;
        }
        Ok(())
    }
}

/// What becomes of the record `before`, beside which files of the sizes `found` lie, by switching over to `staged`; nothing
/// where they are not any more what it was staged for.
fn switch(before: Option<&VolumeRecord>, found: &BTreeMap<u64, u64>, staged: &Staged) -> Option<Switch> {
    let policy = staged.policy;
    let mut record = before.cloned().unwrap_or_else(|| VolumeRecord::new(policy));
    let (number, grow) = match staged.decision {
        Decision::Keep { grow } => (record.current?, grow),
        Decision::Restore { number, grow } => (number, grow),
        Decision::Seed { number } => (number, None),
    };
    match &staged.file {
        Some(file) => {
            let is_free = number >= record.next && !found.contains_key(&number);
            let size = Bytes::new(file.size().filter(|_| is_free)?);
            let (image, created) = match staged.purpose {
                Purpose::Trial { copied_from: Some(from) } => {
                    let source = record.contents.get(&from)?;
                    (staged.image.clone().or_else(|| source.image.clone()), source.created)
                }
                Purpose::Trial { copied_from: None } | Purpose::Lasting => {
                    (staged.image.clone(), Timestamp::now())
                }
            };
            let content =
                Content { size, growing_from: None, created, image, used: true, policy, until: None };
            record.contents.insert(number, content);
            record.next = number + 1;
        }
        None => {
            let content = record.contents.get_mut(&number)?;
            let found = check(content, found.get(&number).copied()).ok()?;
            // The same content in another file: that one need not be read again either.
            content.image = staged.image.clone().or_else(|| content.image.take());
            content.used = true;
            content.policy = policy;
            content.until = None;
            if let Some(size) = grow {
                // What it has, not what it was once to get: that may never have come about.
                content.growing_from = Some(found);
                content.size = size;
            }
        }
    }
    record.policy = policy;
    record.current = Some(number);
    record.unused = None;
    record.trial = match staged.purpose {
        Purpose::Lasting => None,
        Purpose::Trial { copied_from } => {
            Some(Box::new(VolumeTrial { before: before.cloned(), made: number, copied_from }))
        }
    };
    let created = record.contents.get(&number)?.created;
    Some(Switch { record, number, grow, created })
}

/// `record`, whose content `number` has the size that it was to get.
fn grown_up(record: &VolumeRecord, number: u64) -> VolumeRecord {
    let mut grown = record.clone();
    if let Some(content) = grown.contents.get_mut(&number) {
        content.growing_from = None;
    }
    grown
}

/// The record `before` again, in place of the `present` one, without the content `made` since. What was deleted meanwhile
/// stays deleted, what has grown or was about to stays so, and no number is used twice.
pub(super) fn restored(before: &VolumeRecord, present: &VolumeRecord, made: Option<u64>) -> VolumeRecord {
    let mut record = VolumeRecord { next: present.next, ..before.clone() };
    record.contents.retain(|number, _| present.contents.contains_key(number));
    for (number, now) in &present.contents {
        match record.contents.get_mut(number) {
            Some(content) => {
                content.size = now.size;
                content.growing_from = now.growing_from;
            }
            None if made == Some(*number) => {}
            None => drop(record.contents.insert(*number, now.clone())),
        }
    }
    record
}

#[cfg(test)]
mod tests;

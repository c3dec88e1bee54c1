//! What there is of volumes, for people and for housekeeping.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fail_points::{FailPoint, pass};
use tracing::warn;
use vm_model::{Bytes, Timestamp, VmId, VolumeInfo, VolumeKeep};

use super::copy::failed;
use super::decide::{VolumeProblem, check};
use super::directory::VolumeDirectory;
use super::error::VolumeError;
use super::record::VolumeRecord;
use super::store::VolumeStore;
use crate::failure::chain;

/// One content of one volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContentRef {
    /// Whose.
    pub(crate) vm: VmId,
    /// Of which disk.
    pub(crate) disk: String,
    /// Which one.
    pub(crate) number: u64,
}

impl VolumeStore {
    /// Every content of every volume; `removed_until` tells of a VM that was removed when its volumes are deleted. A volume
    /// that is not there, or whose record cannot be read, is listed with what is wrong: nothing is done to it.
    pub(crate) fn list(
        self: &Arc<Self>,
        removed_until: impl Fn(&VmId) -> Option<Timestamp>,
    ) -> Result<Vec<VolumeInfo>, VolumeError> {
        let mut infos = Vec::new();
        for vm in self.vms()?.into_iter().chain(self.vms_known()?).collect::<BTreeSet<_>>() {
            let removed = removed_until(&vm);
            match self.of_vm(&vm, move |store, vm| store.list_vm(vm, removed)) {
                Some(Ok(found)) => infos.extend(found),
                // Nothing is done to what is not listed.
                Some(Err(problem)) => {
                    warn!(vm_id = %vm, error = chain(&problem), "its volumes are not listed");
                }
                None => warn!(vm_id = %vm, "its volumes are not listed: they do not answer"),
            }
        }
        Ok(infos)
    }

    fn list_vm(&self, vm: &VmId, removed: Option<Timestamp>) -> Result<Vec<VolumeInfo>, VolumeError> {
        let mut infos = Vec::new();
        let disks = self.disks_of(vm)?.into_iter().chain(self.disks_known(vm)?);
        for disk in disks.collect::<BTreeSet<_>>() {
            let lock = self.lock(vm);
            // Between the steps of a switch, a file is not as the record says.
            let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.list_one(vm, &disk, removed, &mut infos)?;
        }
        Ok(infos)
    }

    fn list_one(
        &self,
        vm: &VmId,
        disk: &str,
        removed: Option<Timestamp>,
        infos: &mut Vec<VolumeInfo>,
    ) -> Result<(), VolumeError> {
        let directory = self.volume(vm, disk);
        let is_stray = directory.path().symlink_metadata().is_ok_and(|found| !found.is_dir());
        if is_stray && !self.is_known(vm, disk) {
            return Ok(());
        }
        let problem = match directory.load() {
            Ok(Some(record)) => {
                infos.extend(contents(vm, disk, &directory, &record, removed));
                return Ok(());
            }
            Ok(None) => None,
            Err(problem) => Some(chain(&problem)),
        };
        let list = |source| failed("list", directory.path(), source);
        let numbers: Vec<u64> = directory.sizes().map_err(list)?.into_keys().collect();
        let problem = match (problem, numbers.is_empty()) {
            (Some(problem), _) => problem,
            (None, false) => "its files are there and its volume.json is not: put it back".to_owned(),
            (None, true) if self.is_known(vm, disk) => VolumeProblem::Missing.to_string(),
            // A start that was cut short before it made anything.
            (None, true) => return Ok(()),
        };
        // A volume of which nothing is found is told of, too.
        let numbers = if numbers.is_empty() { vec![0] } else { numbers };
        infos.extend(numbers.into_iter().map(|number| {
            let found = directory.find(number);
            let size = found.as_ref().map_or(0, Metadata::len);
            let made = found.as_ref().and_then(|found| found.created().or_else(|_| found.modified()).ok());
            let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            VolumeInfo {
                vm: vm.clone(),
                disk: disk.to_owned(),
                number,
                policy: None,
                size: Bytes::new(size),
                allocated: allocated(found.as_ref()),
                created: Timestamp::from_millis(u64::try_from(made.as_millis()).unwrap_or(u64::MAX)),
                keep: removed.map_or(VolumeKeep::Unknown, |until| VolumeKeep::Removed { until }),
                problem: Some(problem.clone()),
            }
        }));
        Ok(())
    }

    /// Bytes that are free where volumes lie; as many as can be where nobody knows.
    pub(crate) fn free_space(&self) -> u64 {
        let system = rustix::fs::statvfs(self.root());
        system.map_or(u64::MAX, |system| system.f_bavail.saturating_mul(system.f_frsize))
    }

    /// Deletes one content that is not in use, or with its last content the volume. Answers whether it did: one that is in
    /// use again by now is left.
    pub(crate) fn delete(&self, content: &ContentRef) -> Result<bool, VolumeError> {
        let ContentRef { vm, disk, number } = content;
        let directory = self.volume(vm, disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = self.load(&directory)? else { return Ok(false) };
        // What is there besides is the way back.
        if record.trial.is_some() {
            return Ok(false);
        }
        if Some(*number) == record.current {
            if record.unused.is_none() {
                return Ok(false);
            }
            return self.remove(vm, disk).map(|()| true);
        }
        if record.contents.remove(number).is_none() {
            return Ok(false);
        }
        directory.save(&record)?;
        pass(FailPoint::VolumeDeletionRecorded);
        let path = directory.content(*number);
        directory.delete(*number).map_err(|source| failed("delete", &path, source))?;
        Ok(true)
    }

    /// Sets aside what of a volume is not as it was left, so that the next start makes it anew. What is there of it is kept
    /// for `grace`, or, where it has no record that can be read, until somebody deletes it. Answers in words what was done;
    /// nothing where the volume can be used.
    pub(crate) fn set_aside(
        &self,
        vm: &VmId,
        disk: &str,
        grace: Duration,
    ) -> Result<Option<String>, VolumeError> {
        let directory = self.volume(vm, disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = directory.path();
        let sizes = directory.sizes().map_err(|source| failed("list", path, source))?;
        let name = format!("volume {vm}/{disk}");
        match directory.load() {
            Ok(Some(mut record)) => {
                let Some(number) = record.current else { return Ok(None) };
                directory.adopt(number).map_err(|source| failed("name", path, source))?;
                let sizes = directory.sizes().map_err(|source| failed("list", path, source))?;
                let found = sizes.get(&number).copied();
                if record.current().is_some_and(|content| check(content, found).is_ok()) {
                    return Ok(None);
                }
                match (found, record.contents.get_mut(&number)) {
                    (Some(_), Some(content)) => content.until = Some(Timestamp::now().after(grace)),
                    (_, _) => drop(record.contents.remove(&number)),
                }
                // There is no such content: the next start makes it.
                record.current = None;
                directory.save(&record)?;
                Ok(Some(format!("{name}, content {number}; the next start makes it anew")))
            }
            Ok(None) if sizes.is_empty() => {
                let was_known = self.is_known(vm, disk);
                self.unknow(vm, disk)?;
                Ok(was_known
                    .then(|| format!("{name}, of which nothing is left; the next start makes it anew")))
            }
            Ok(None) | Err(_) => {
                let aside = self.move_aside(vm, disk)?;
                self.unknow(vm, disk)?;
                Ok(Some(format!("{name}, moved to {}; the next start makes it anew", aside.display())))
            }
        }
    }
}

/// The contents that `record` of the volume in `directory` speaks of; `removed` is until when a removed VM is kept.
fn contents(
    vm: &VmId,
    disk: &str,
    directory: &VolumeDirectory,
    record: &VolumeRecord,
    removed: Option<Timestamp>,
) -> Vec<VolumeInfo> {
    let contents = record.contents.iter().map(|(number, content)| {
        let found = directory.find(*number);
        let checked = check(content, found.as_ref().map(Metadata::len));
        let keep = match (removed, record.unused) {
            (Some(until), _) => VolumeKeep::Removed { until },
            (None, _) if Some(*number) != record.current => VolumeKeep::Replaced { until: content.until },
            (None, Some(unused)) => VolumeKeep::Unused { until: unused.until },
            (None, None) => VolumeKeep::InUse,
        };
        VolumeInfo {
            vm: vm.clone(),
            disk: disk.to_owned(),
            number: *number,
            policy: Some(content.policy),
            // One that has not grown yet, although it is to, has the size that it has.
            size: *checked.as_ref().unwrap_or(&content.size),
            allocated: allocated(found.as_ref()),
            created: content.created,
            keep,
            problem: checked.err().map(|problem| problem.to_string()),
        }
    });
    contents.collect()
}

/// What a file takes of the host's disk.
fn allocated(found: Option<&Metadata>) -> Bytes {
    Bytes::new(found.map_or(0, |found| found.blocks().saturating_mul(512)))
}

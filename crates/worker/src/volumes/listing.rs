//! What there is of volumes, for people and for housekeeping.

use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::Duration;

use vm_model::{Bytes, Timestamp, VmId, VolumeInfo, VolumeKeep};

use super::copy::failed;
use super::decide::check;
use super::error::VolumeError;
use super::store::VolumeStore;

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
    /// Every content of every volume; `removed_until` tells of a VM that was removed when its volumes are deleted. Volumes
    /// whose record cannot be read are left out: nothing is done to them.
    pub(crate) fn list(
        &self,
        removed_until: impl Fn(&VmId) -> Option<Timestamp>,
    ) -> Result<Vec<VolumeInfo>, VolumeError> {
        let mut infos = Vec::new();
        for vm in self.vms()? {
            let removed = removed_until(&vm);
            for disk in self.disks_of(&vm)? {
                let directory = self.volume(&vm, &disk);
                let Ok(Some(record)) = directory.load() else { continue };
                for (number, content) in &record.contents {
                    let metadata = directory.content(*number).symlink_metadata();
                    let allocated = metadata.map_or(0, |metadata| metadata.blocks().saturating_mul(512));
                    let keep = match (removed, record.unused) {
                        (Some(until), _) => VolumeKeep::Removed { until },
                        (None, _) if Some(*number) != record.current => {
                            VolumeKeep::Replaced { until: content.until }
                        }
                        (None, Some(unused)) => VolumeKeep::Unused { until: unused.until },
                        (None, None) => VolumeKeep::InUse,
                    };
                    infos.push(VolumeInfo {
                        vm: vm.clone(),
                        disk: disk.clone(),
                        number: *number,
                        policy: content.policy,
                        size: content.size,
                        allocated: Bytes::new(allocated),
                        created: content.created,
                        keep,
                    });
                }
            }
        }
        Ok(infos)
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
                Ok(Some(format!("{name}, content {number}: set aside; the next start makes it anew")))
            }
            Ok(None) if sizes.is_empty() => {
                let was_known = self.is_known(vm, disk);
                self.unknow(vm, disk)?;
                Ok(was_known.then(|| format!("{name}: the next start makes it anew")))
            }
            Ok(None) | Err(_) => {
                let aside = self.move_aside(vm, disk)?;
                self.unknow(vm, disk)?;
                Ok(Some(format!("{name}: moved to {}; the next start makes it anew", aside.display())))
            }
        }
    }
}

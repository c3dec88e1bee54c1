//! What there is of volumes, for people and for housekeeping.

use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;

use vm_model::{Bytes, Timestamp, VmId, VolumeInfo, VolumeKeep};

use super::copy::failed;
use super::error::VolumeError;
use super::store::VolumeStore;
use crate::records::remove_all;

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
                        (None, _) if *number != record.current => {
                            VolumeKeep::Replaced { until: content.until }
                        }
                        (None, Some(unused)) => VolumeKeep::Unused { until: unused.until },
                        (None, None) => VolumeKeep::InUse,
                    };
                    infos.push(VolumeInfo {
                        vm: vm.clone(),
                        disk: disk.clone(),
                        number: *number,
                        policy: record.policy,
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

    /// Deletes one content that is not in use, or with its last content the volume. Answers whether it did: one that is in
    /// use again by now is left.
    pub(crate) fn delete(&self, content: &ContentRef) -> Result<bool, VolumeError> {
        let ContentRef { vm, disk, number } = content;
        let directory = self.volume(vm, disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = self.load(&directory)? else { return Ok(false) };
        if *number == record.current {
            if record.unused.is_none() {
                return Ok(false);
            }
            let path = directory.path();
            return match std::fs::remove_dir_all(path) {
                Ok(()) => Ok(true),
                Err(source) => Err(failed("delete", path, source).into()),
            };
        }
        if record.contents.remove(number).is_none() {
            return Ok(false);
        }
        directory.save(&record)?;
        let path = directory.content(*number);
        directory.delete(*number).map_err(|source| failed("delete", &path, source))?;
        Ok(true)
    }

    /// Deletes a volume whose content in use is not as it was left, or that has no record that can be read. Answers whether
    /// it did.
    pub(crate) fn delete_if_unusable(&self, vm: &VmId, disk: &str) -> Result<bool, VolumeError> {
        let directory = self.volume(vm, disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = directory.path();
        let sizes = directory.sizes().map_err(|source| failed("list", path, source))?;
        let is_usable = match directory.load() {
            Ok(Some(record)) => record.current().is_some_and(|content| {
                sizes.get(&record.current).is_some_and(|found| *found == content.size.get())
            }),
            Ok(None) => sizes.is_empty(),
            Err(_) => false,
        };
        if is_usable {
            return Ok(false);
        }
        remove_all(path).map_err(|source| failed("delete", path, source))?;
        Ok(true)
    }
}

//! The content of an ephemeral disk, which the next start replaces. Where there is no space for both, it goes first: it would be given
//! up in any case.

use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;

use vm_model::{VmId, VolumePolicy};

use super::copy::failed;
use super::error::VolumeError;
use super::record::{Content, VolumeRecord};
use super::staging::StageRequest;
use super::store::VolumeStore;

impl VolumeStore {
    /// Whether there is space for the content that a start by `request` makes once the one in use is gone, and that one is given up
    /// by it.
    pub(crate) fn fits_in_place(&self, vm: &VmId, request: &StageRequest<'_>) -> bool {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.replaceable(vm, request).is_ok_and(|replaceable| replaceable.is_some())
    }

    /// Makes room for what a start by `request` is about to make of the disk, by deleting the content that it replaces, where there
    /// is no space for both. No machine of `vm` may run.
    ///
    /// # Errors
    /// What is on record cannot be read or written, or the file not be deleted.
    pub(crate) fn clear_for(&self, vm: &VmId, request: &StageRequest<'_>) -> Result<(), VolumeError> {
        if request.image.is_none_or(|image| self.check_copy(image).is_ok()) {
            return Ok(());
        }
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mut record, number)) = self.replaceable(vm, request)? else { return Ok(()) };
        record.contents.remove(&number);
        record.current = None;
        let directory = self.volume(vm, request.disk);
        directory.save(&record)?;
        let path = directory.content(number);
        Ok(directory.delete(number).map_err(|source| failed("delete", &path, source))?)
    }

    /// What is on record of the disk, and the number of the content in use, where a start by `request` gives that up and there is
    /// space for another one in its place. The lock of `vm` is held by who calls.
    fn replaceable(
        &self,
        vm: &VmId,
        request: &StageRequest<'_>,
    ) -> Result<Option<(VolumeRecord, u64)>, VolumeError> {
        let (VolumePolicy::Ephemeral, Some(image)) = (request.policy, request.image) else { return Ok(None) };
        let directory = self.volume(vm, request.disk);
        let Some(record) = self.load(&directory)? else { return Ok(None) };
        let Some(number) = record.current.filter(|_| record.trial.is_none()) else { return Ok(None) };
        if record.current().is_none_or(Content::holds_data) {
            return Ok(None);
        }
        let blocks = |found: std::fs::Metadata| found.blocks().saturating_mul(512);
        let freed = directory.content(number).symlink_metadata().map_or(0, blocks);
        let needed = image.metadata().map_or(0, blocks);
        let room = self.free_space().saturating_add(freed);
        Ok((needed <= room).then_some((record, number)))
    }
}

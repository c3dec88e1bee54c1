//! The content of an ephemeral disk, which the next start replaces. Where there is no space for both, it is emptied first: it would be
//! given up in any case. It stays on record until another is there, so that what a start decides of the disk is what it always decided.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::PoisonError;

use rustix::fs::OFlags;
use vm_model::{VmId, VolumePolicy};

use super::copy::failed;
use super::error::VolumeError;
use super::record::Content;
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

    /// Makes room for what a start by `request` is about to make of the disk, by emptying the content that it replaces, where there
    /// is no space for both. No machine of `vm` may run.
    ///
    /// # Errors
    /// What is on record cannot be read, or the file not be emptied.
    pub(crate) fn clear_for(&self, vm: &VmId, request: &StageRequest<'_>) -> Result<(), VolumeError> {
        if request.image.is_none_or(|image| self.check_copy(image).is_ok()) {
            return Ok(());
        }
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = self.replaceable(vm, request)? else { return Ok(()) };
        let path = self.volume(vm, request.disk).content(number);
        let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let emptied = OpenOptions::new().write(true).custom_flags(no_link).open(&path);
        let emptied = emptied.and_then(|file| file.set_len(0));
        Ok(emptied.map_err(|source| failed("empty", &path, source))?)
    }

    /// The number of the content in use, where a start by `request` gives that up and there is space for another one in its place. The lock of `vm` is held by who calls.
    fn replaceable(&self, vm: &VmId, request: &StageRequest<'_>) -> Result<Option<u64>, VolumeError> {
        let (VolumePolicy::Ephemeral, Some(image)) = (request.policy, request.image) else { return Ok(None) };
        let directory = self.volume(vm, request.disk);
        let Some(record) = self.load(&directory)? else { return Ok(None) };
        let Some(number) = record.current.filter(|_| record.trial.is_none()) else { return Ok(None) };
        if record.current().is_none_or(Content::holds_data) {
            return Ok(None);
        }
        let blocks = |found: std::fs::Metadata| found.blocks().saturating_mul(512);
        let freed = directory.find(number).map_or(0, blocks);
        let needed = image.metadata().map_or(0, blocks);
        let room = self.free_space().saturating_add(freed);
        Ok((needed <= room).then_some(number))
    }
}

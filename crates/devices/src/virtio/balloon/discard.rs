//! Giving guest memory back to the host: holes in a memfd, or fresh zero pages in private memory.
#![expect(unsafe_code, reason = "madvise takes an address range")]

use rustix::fs::FallocateFlags;
use rustix::mm::Advice;
use thiserror::Error;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::handle::PAGE_BYTES;
use crate::memory::{GuestMemory, GuestRegion};

/// Why memory was not given back. It stays as it is.
#[derive(Debug, Error)]
pub(super) enum DiscardError {
    /// The range is not whole pages of one memory region.
    #[error("{length:#x} bytes at {start:#x} are not whole pages of one region of guest memory")]
    Range { start: u64, length: u64 },
    /// The host refused.
    #[error("the host did not take back {length:#x} bytes at {start:#x}")]
    Host {
        start: u64,
        length: u64,
        #[source]
        source: rustix::io::Errno,
    },
}

/// Gives `length` bytes of memory at `start` back; the guest reads zeros there from now on. I/O to these
/// pages meanwhile does not fail: the guest gave them up, and what is written may be lost.
///
/// # Errors
/// See [`DiscardError`].
pub(super) fn discard(memory: &GuestMemory, start: GuestAddress, length: u64) -> Result<(), DiscardError> {
    let outside = DiscardError::Range { start: start.raw_value(), length };
    if length == 0 || !start.raw_value().is_multiple_of(PAGE_BYTES) || !length.is_multiple_of(PAGE_BYTES) {
        return Err(outside);
    }
    let Some((region, offset)) = memory.to_region_addr(start) else { return Err(outside) };
    if offset.raw_value().checked_add(length).is_none_or(|end| end > region.len()) {
        return Err(outside);
    }
    release(region, offset, length).map_err(|source| DiscardError::Host {
        start: start.raw_value(),
        length,
        source,
    })?;
    let (offset, length) = (usize::try_from(offset.raw_value()), usize::try_from(length));
    if let (Ok(offset), Ok(length)) = (offset, length) {
        // What was there is gone: for whoever keeps copies of guest memory that is a write.
        region.bitmap().mark_dirty(offset, length);
    }
    Ok(())
}

fn release(region: &GuestRegion, offset: MemoryRegionAddress, length: u64) -> rustix::io::Result<()> {
    if let Some(backing) = region.file_offset() {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return rustix::fs::fallocate(backing.file(), hole, backing.start() + offset.raw_value(), length);
    }
    let length = usize::try_from(length).map_err(|_| rustix::io::Errno::INVAL)?;
    let start = region.get_host_address(offset).map_err(|_| rustix::io::Errno::FAULT)?;
    // SAFETY: the caller has checked that the range lies in `region`, which owns the mapping and keeps it during the
    // call. It is private anonymous guest memory: content that turns to zeros there is what a guest may do itself at
    // any time, and nothing but volatile accesses look at it.
    unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxDontNeed) }
}

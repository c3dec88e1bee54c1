//! Mappings whose address is chosen: both guest-physical and host-virtual addresses of a page, and its offset in a file,
//! have the same distance to a multiple of 2 MiB.
//!
//! Only then can the kernel put a page of 2 MiB there, and KVM give it to the guest as one. Kernels align by
//! themselves only some of the kinds of memory, depending on their version and settings.
#![expect(unsafe_code, reason = "mmap at an address of our own choice, inside a reservation of our own")]

use std::ffi::c_void;
use std::ptr;

use devices::memory::{GuestRegion, MappingOwner, RegionPages};
use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress};

/// A transparent huge page.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Address space of one region, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    start: *mut c_void,
    length: usize,
}

// SAFETY: it is an address range without content of its own, and only dropping it does anything.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference offers nothing.
unsafe impl Sync for Mapping {}

impl MappingOwner for Mapping {}

/// Maps `length` bytes of `file`, or of private memory, as the region at guest-physical `start`, which is a multiple
/// of [`HUGE_PAGE`], as is the offset in the file.
pub(super) fn map_aligned(
    start: u64,
    length: usize,
    file: Option<FileOffset>,
) -> Result<GuestRegion, MmapRegionError> {
    let kind = match file {
        Some(_) => MapFlags::SHARED,
        None => MapFlags::PRIVATE,
    };
    // Guests take memory when they touch it; what the host promises them is counted by others.
    let flags = kind | MapFlags::NORESERVE;
    let mapping = Mapping::reserve(length).map_err(|error| MmapRegionError::Mmap(error.into()))?;
    mapping.put(flags, file.as_ref()).map_err(|error| MmapRegionError::Mmap(error.into()))?;
    let address = mapping.start.cast();
    let pages = RegionPages::owned_by(length, Box::new(mapping));
    let flags = i32::try_from(flags.bits()).expect("flags of mmap are an int in C");
    let builder = MmapRegionBuilder::new_with_bitmap(length, pages)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    let builder = match file {
        Some(file) => builder.with_file_offset(file),
        None => builder,
    };
    // SAFETY: `length` bytes are mapped at `address`, readable and writable, until `pages` is dropped, which the region
    // owns; they are handed to no one else.
    let builder = unsafe { builder.with_raw_mmap_pointer(address) };
    let region = GuestRegion::new(builder.build()?, GuestAddress(start));
    Ok(region.expect("a range of the layout ends below 2^64"))
}

impl Mapping {
    /// Takes `length` bytes of address space at a multiple of [`HUGE_PAGE`], with nothing in them.
    fn reserve(length: usize) -> rustix::io::Result<Self> {
        let enough = length.checked_add(HUGE_PAGE).ok_or(rustix::io::Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: at an address that the kernel chooses, where nothing is.
        let found =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), enough, ProtFlags::empty(), flags) }?;
        let whole = Self { start: found, length: enough };
        let before = found.addr().next_multiple_of(HUGE_PAGE) - found.addr();
        Ok(whole.without(before, HUGE_PAGE - before))
    }

    /// Gives back so many bytes at its start and its end. Where the kernel refuses, address space is lost, not memory.
    fn without(self, before: usize, after: usize) -> Self {
        let inner =
            Self { start: self.start.wrapping_byte_add(before), length: self.length - before - after };
        unmap(self.start, before);
        unmap(inner.start.wrapping_byte_add(inner.length), after);
        std::mem::forget(self);
        inner
    }

    /// Puts memory where the reservation is.
    fn put(&self, flags: MapFlags, file: Option<&FileOffset>) -> rustix::io::Result<()> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, flags | MapFlags::FIXED);
        match file {
            // SAFETY: it replaces exactly this reservation, which is empty and which nobody else knows.
            Some(file) => unsafe {
                rustix::mm::mmap(self.start, self.length, access, flags, file.file(), file.start())
            },
            // SAFETY: as above.
            None => unsafe { rustix::mm::mmap_anonymous(self.start, self.length, access, flags) },
        }
        .map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.start, self.length);
    }
}

/// Unmaps a piece of a [`Mapping`] that is not used any more.
fn unmap(start: *mut c_void, length: usize) {
    if length != 0 {
        // SAFETY: only called here, for pieces that belong to a `Mapping` which gives them up: its region, the only one
        // with pointers into it, is gone or was never made. It fails only where there is no memory for splitting.
        let _ = unsafe { rustix::mm::munmap(start, length) };
    }
}

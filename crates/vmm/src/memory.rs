//! Guest memory: its size and backing as asked for, mapped lazily, never inherited by a forked child, and how
//! much of it the host carries now.
//!
//! Shared memory is one sealed memfd a machine, so that another process can be given the same memory and its resident size
//! is one `fstat` away. Whether that or private memory is the better one on a host is decided before. Huge pages set aside by the host are promised when they are mapped, or refused then: a guest that touched
//! one that nobody has would end its process. Where memory lies in the guest's address space is `layout`'s.

mod advice;
mod huge_pages;
mod mapping;
mod resident;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::memory::{GuestMemory, GuestRegion, RegionPages};
use rustix::fs::{MemfdFlags, SealFlags};
use thiserror::Error;
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress};
use vm_model::{Bytes, HugePageSize, MemoryBacking, MemorySpec};

use crate::layout;

pub(crate) use resident::ResidentMemory;

/// The smallest machine: room for the boot structures and a kernel above them.
const SMALLEST: u64 = 2 << 20;
/// The largest machine; its bitmap of written pages alone takes 128 MiB of the host's memory.
const LARGEST: u64 = 1 << 42;

/// Why guest memory could not be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is impossible.
    #[error(
        "guest memory of {size} bytes is not possible: a whole number of 4096-byte pages from 2 MiB to 4 TiB is accepted"
    )]
    Size {
        /// As asked for, in bytes.
        size: u64,
    },
    /// The size is no whole number of huge pages.
    #[error("guest memory of {size} is no whole number of huge pages of {page}")]
    PartialHugePage {
        /// The size in the description.
        size: Bytes,
        /// The size of one huge page.
        page: Bytes,
    },
    /// The host has set aside too few huge pages.
    #[error(
        "guest memory of {size} needs {needed} huge pages of {page}; {}",
        huge_pages::in_words(*free)
    )]
    HugePages {
        /// The size in the description.
        size: Bytes,
        /// The size of one huge page.
        page: Bytes,
        /// Pages.
        needed: u64,
        /// Huge pages that are neither in use nor reserved; `None` if the host has none of this size.
        free: Option<u64>,
        /// What the kernel answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody decided what it lies on.
    #[error("what guest memory of {size} lies on was not decided for this host before its machine was made")]
    Undecided {
        /// As asked for.
        size: Bytes,
    },
    /// Memory that a balloon gives back is reserved for nothing: a guest that uses it again could get the process killed.
    #[error("guest memory of huge pages cannot be given back by a balloon")]
    BalloonOnHugePages,
    /// The host does not give memory of this kind.
    #[error("could not create {size} of guest memory: {operation}")]
    Create {
        /// The size in the description.
        size: Bytes,
        /// What the host refused.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: std::io::Error,
    },
    /// The host does not map it.
    #[error("could not map {length} bytes of guest memory of {size}")]
    Map {
        /// The whole, as asked for.
        size: Bytes,
        /// Of the piece that failed, in bytes.
        length: u64,
        /// The underlying error.
        #[source]
        source: MmapRegionError,
    },
    /// The host has no more memory to make it present in advance.
    #[error("could not make {size} of guest memory present in advance; the host may not have that much free")]
    Prefault {
        /// The size in the description.
        size: Bytes,
        /// The underlying error.
        #[source]
        source: std::io::Error,
    },
}

/// A machine's memory.
#[derive(Debug)]
pub(crate) struct Ram {
    /// As devices use it.
    pub(crate) memory: Arc<GuestMemory>,
    /// Its pieces, as memory slots.
    pub(crate) regions: Vec<Arc<GuestRegion>>,
    /// How to read its resident size.
    pub(crate) resident: ResidentMemory,
}

/// Maps the memory that `spec` describes.
///
/// Nothing is made present unless `spec.prefault` says so; a host that runs out later ends the guest's process.
///
/// # Errors
/// See [`MemoryError`]; nothing stays mapped and nothing promised.
pub(crate) fn allocate(spec: &MemorySpec) -> Result<Ram, MemoryError> {
    let size = spec.size.get();
    if !(SMALLEST..=LARGEST).contains(&size) || !size.is_multiple_of(layout::PAGE_SIZE) {
        return Err(MemoryError::Size { size });
    }
    let file = match spec.backing {
        MemoryBacking::Automatic => return Err(MemoryError::Undecided { size: spec.size }),
        MemoryBacking::SharedMemfd => Some(Arc::new(sealed_memfd(spec.size, MemfdFlags::empty())?)),
        MemoryBacking::HugePages(page) => Some(Arc::new(huge_memfd(spec.size, page)?)),
        MemoryBacking::AnonymousHuge | MemoryBacking::AnonymousMergeable => None,
    };
    let mut regions = Vec::with_capacity(2);
    let mut offset = 0;
    for range in layout::ram_ranges(size) {
        let length = range.end - range.start;
        let backing = file.as_ref().map(|file| FileOffset::from_arc(file.clone(), offset));
        let region = map_region(spec, range.start, length, backing)?;
        regions.push(Arc::new(region));
        offset += length;
    }
    let memory = Arc::new(
        GuestMemory::from_arc_regions(regions.clone())
            .expect("the ranges of the layout are sorted and disjoint"),
    );
    let resident = match file {
        Some(file) => ResidentMemory::of_file(file),
        None => ResidentMemory::of_mappings(regions.clone()),
    };
    Ok(Ram { memory, regions, resident })
}

fn huge_memfd(size: Bytes, page: HugePageSize) -> Result<File, MemoryError> {
    let needed = huge_pages::whole_pages(size, page)
        .ok_or(MemoryError::PartialHugePage { size, page: page.bytes() })?;
    sealed_memfd(size, huge_pages::memfd_flags(page)).map_err(|error| match huge_pages::unpromised(page) {
        None => MemoryError::HugePages { size, page: page.bytes(), needed, free: None, source: error.into() },
        Some(_) => error,
    })
}

fn sealed_memfd(size: Bytes, kind: MemfdFlags) -> Result<File, MemoryError> {
    let refused = |operation| {
        move |error: rustix::io::Errno| MemoryError::Create { size, operation, source: error.into() }
    };
    let fd: OwnedFd =
        rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind)
            .map_err(refused("memfd_create"))?;
    rustix::fs::ftruncate(&fd, size.get()).map_err(refused("setting the memfd's size"))?;
    // Whoever is given this descriptor later can neither cut the memory under us nor let it grow.
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(refused("sealing the memfd"))?;
    Ok(File::from(fd))
}

fn map_region(
    spec: &MemorySpec,
    start: u64,
    length: u64,
    backing: Option<FileOffset>,
) -> Result<GuestRegion, MemoryError> {
    let size = spec.size;
    let map_length = usize::try_from(length).map_err(|_| MemoryError::Size { size: size.get() })?;
    let mapped = match (spec.backing, backing) {
        // The kernel aligns them to their own size.
        (MemoryBacking::HugePages(_), Some(file)) => map_promised(start, map_length, file),
        (_, file) => mapping::map_aligned(start, map_length, file),
    };
    let region = mapped.map_err(|source| unmapped(spec, start, length, source))?;
    advice::prepare(&region, spec)?;
    Ok(region)
}

/// Maps a file of huge pages. Without `MAP_NORESERVE` the kernel promises every page now.
fn map_promised(start: u64, length: usize, file: FileOffset) -> Result<GuestRegion, MmapRegionError> {
    let mapping = MmapRegionBuilder::new_with_bitmap(length, RegionPages::with_len(length))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED)
        .with_file_offset(file)
        .build()?;
    Ok(GuestRegion::new(mapping, GuestAddress(start)).expect("a range of the layout ends below 2^64"))
}

/// Why the piece of `length` bytes at `start` was not mapped. What was mapped before it is still promised to this machine.
fn unmapped(spec: &MemorySpec, start: u64, length: u64, source: MmapRegionError) -> MemoryError {
    let size = spec.size;
    let MemoryBacking::HugePages(page) = spec.backing else {
        return MemoryError::Map { size, length, source };
    };
    let page_size = page.bytes().get();
    let before = if start == 0 { 0 } else { size.get() - length };
    let free = huge_pages::unpromised(page).map(|free| free.saturating_add(before / page_size));
    let needed = size.get() / page_size;
    MemoryError::HugePages { size, page: page.bytes(), needed, free, source: source.into() }
}

#[cfg(test)]
mod tests;

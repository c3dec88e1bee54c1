//! Guest memory: its size and backing as asked for, mapped lazily, never inherited by a forked child, and how
//! much of it the host carries now.
//!
//! By default it is one sealed memfd a machine, mapped shared, so that another process can be given the same
//! memory and its resident size is one `fstat` away. Where it lies in the guest's address space is `layout`'s.

mod advice;
mod resident;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::memory::{GuestMemory, GuestRegion};
use rustix::fs::{MemfdFlags, SealFlags};
use thiserror::Error;
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress};
use vm_model::{Bytes, MemoryBacking, MemorySpec};

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
    /// The host does not give memory of this kind.
    #[error("could not create {size} of guest memory: {operation}")]
    Create {
        /// As asked for.
        size: Bytes,
        /// What the host refused.
        operation: &'static str,
        /// Why.
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
        /// Why.
        #[source]
        source: MmapRegionError,
    },
    /// The host has no more memory to make it present in advance.
    #[error("could not make {size} of guest memory present in advance; the host may not have that much free")]
    Prefault {
        /// As asked for.
        size: Bytes,
        /// Why.
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
/// See [`MemoryError`]; nothing stays mapped.
pub(crate) fn allocate(spec: &MemorySpec) -> Result<Ram, MemoryError> {
    let size = spec.size.get();
    if !(SMALLEST..=LARGEST).contains(&size) || !size.is_multiple_of(layout::PAGE_SIZE) {
        return Err(MemoryError::Size { size });
    }
    let file = match spec.backing {
        MemoryBacking::SharedMemfd => Some(Arc::new(sealed_memfd(spec.size)?)),
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

fn sealed_memfd(size: Bytes) -> Result<File, MemoryError> {
    let refused = |operation| {
        move |error: rustix::io::Errno| MemoryError::Create { size, operation, source: error.into() }
    };
    let fd: OwnedFd =
        rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
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
    let bitmap = AtomicBitmap::with_len(map_length);
    let builder = MmapRegionBuilder::new_with_bitmap(map_length, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    let builder = match backing {
        Some(file) => builder.with_file_offset(file).with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE),
        None => builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
    };
    let mapping = builder.build().map_err(|source| MemoryError::Map { size, length, source })?;
    let region =
        GuestRegion::new(mapping, GuestAddress(start)).expect("a range of the layout ends below 2^64");
    advice::prepare(&region, spec)?;
    Ok(region)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes as _, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    fn spec(size: u64, backing: MemoryBacking) -> MemorySpec {
        MemorySpec { size: Bytes::new(size), backing, prefault: false }
    }

    const BACKINGS: [MemoryBacking; 3] =
        [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousHuge, MemoryBacking::AnonymousMergeable];

    #[test]
    fn memory_is_lazy_and_its_resident_size_follows_use() {
        // Past the hole, so that the second region's offset into the memfd matters.
        let size = 3_328 << 20;
        for backing in BACKINGS {
            let Ram { memory, resident, .. } = allocate(&spec(size, backing)).unwrap();
            assert_eq!(memory.num_regions(), 2);
            assert!(resident.read().get() < 1 << 20, "{backing:?} is not lazy");
            let last = GuestAddress(layout::highest_address(size) - 7);
            memory.write_obj(7_u64, last).unwrap();
            memory.write_obj(9_u64, GuestAddress(layout::HOLE_START - 8)).unwrap();
            assert_eq!(memory.read_obj::<u64>(last).unwrap(), 7);
            let after = resident.read().get();
            assert!((2 * layout::PAGE_SIZE..=4 << 20).contains(&after), "{backing:?}: {after}");
        }
    }

    #[test]
    fn the_memfd_is_sealed_and_one_for_all_regions() {
        let Ram { memory, .. } = allocate(&spec(4 << 30, MemoryBacking::SharedMemfd)).unwrap();
        let files: Vec<_> =
            memory.iter().map(|region| region.file_offset().expect("file-backed").clone()).collect();
        assert!(Arc::ptr_eq(files[0].arc(), files[1].arc()));
        assert_eq!(files[1].start(), layout::HOLE_START);
        assert!(files[0].file().set_len(4096).is_err(), "the memfd could be cut");
        assert!(files[0].file().set_len(1 << 40).is_err(), "the memfd could grow");
        assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), 4 << 30);
    }

    #[test]
    fn prefaulted_memory_is_resident() {
        for backing in BACKINGS {
            let mut spec = spec(16 << 20, backing);
            spec.prefault = true;
            let Ram { resident, .. } = allocate(&spec).unwrap();
            assert_eq!(resident.read(), spec.size, "{backing:?}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused_by_number() {
        for size in [0, 4096, (128 << 20) + 1, u64::MAX, 1 << 43] {
            let error = allocate(&spec(size, MemoryBacking::SharedMemfd)).unwrap_err();
            assert!(error.to_string().contains(&size.to_string()), "{error}");
        }
    }

    #[test]
    fn a_forked_child_does_not_inherit_it() {
        let Ram { memory, .. } = allocate(&spec(64 << 20, MemoryBacking::SharedMemfd)).unwrap();
        let start = memory.iter().next().unwrap().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let entry = maps.split_once(&format!("{start:x}-")).expect("the mapping is listed").1;
        let flags = entry.lines().find_map(|line| line.strip_prefix("VmFlags:")).expect("flags are listed");
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }
}

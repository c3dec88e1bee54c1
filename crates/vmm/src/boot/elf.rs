//! An ELF kernel: its extent, from its program headers, so that a refusal can name addresses (ELF-64 §2, §5), and its
//! way into guest memory.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use devices::memory::GuestMemory;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};

use super::{BootFile, BootSource, LoadError, low_memory_end, unreadable};
use crate::layout;

/// What Linux on x86 takes, without the terminating zero; it cuts what is longer without a word.
pub(super) const COMMAND_LINE_LIMIT: usize = 2047;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const LOADABLE: u32 = 1;

/// Whether a file that starts like this is an ELF file.
pub(super) fn is_elf(start: [u8; 4]) -> bool {
    start == *b"\x7fELF"
}

/// An ELF kernel in guest memory.
#[derive(Debug)]
pub(super) struct ElfKernel {
    /// Guest-physical addresses between its first and its last segment's end.
    pub(super) extent: Range<u64>,
    /// Where its header says that it starts.
    pub(super) entry: u64,
    /// Where its PVH note says that it starts, if it has one.
    pub(super) pvh_entry: Option<u64>,
}

impl ElfKernel {
    /// The first page after it.
    pub(super) fn after(&self) -> u64 {
        self.extent.end.next_multiple_of(layout::PAGE_SIZE)
    }
}

/// Loads an ELF kernel of `file_size` bytes where its segments say.
///
/// # Errors
/// As [`loaded_extent`], and if the kernel does not fit low memory.
pub(super) fn load(
    memory: &GuestMemory,
    source: &mut BootSource<'_>,
    file_size: u64,
) -> Result<ElfKernel, LoadError> {
    let extent = loaded_extent(&source.kernel, file_size)?;
    let limit = low_memory_end(source.memory_size);
    if extent.start < layout::HIGH_MEMORY || extent.end > limit {
        return Err(LoadError::KernelDoesNotFit { start: extent.start, end: extent.end, limit });
    }
    let loaded = Elf::load(memory, None, &mut source.kernel, None).map_err(LoadError::Load)?;
    let pvh_entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Some(entry.0),
        PvhBootCapability::PvhEntryNotPresent | PvhBootCapability::PvhEntryIgnored => None,
    };
    Ok(ElfKernel { extent, entry: loaded.kernel_load.0, pvh_entry })
}

/// The guest-physical range that the loadable segments of `kernel` cover in memory.
///
/// # Errors
/// The file is not a 64-bit little-endian ELF for x86-64, or a header points past the file's end.
fn loaded_extent(kernel: &File, file_size: u64) -> Result<Range<u64>, LoadError> {
    let damaged = |problem| LoadError::Damaged { problem };
    let mut header = [0; HEADER_SIZE];
    read(kernel, &mut header, 0, file_size, "it ends within its ELF header")?;
    if header[4..6] != [2, 1] {
        return Err(damaged("it is an ELF file, but not a 64-bit little-endian one"));
    }
    if u16_at(&header, 18) != 62 {
        return Err(damaged("it is an ELF file, but not for x86-64"));
    }
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_SIZE {
        return Err(damaged("its ELF program headers have an unknown size"));
    }
    let table = u64_at(&header, 32);
    let mut extent: Option<Range<u64>> = None;
    for index in 0..u64::from(u16_at(&header, 56)) {
        let mut program = [0; PROGRAM_HEADER_SIZE];
        let offset = table.checked_add(index * 56).ok_or(damaged("its program headers lie past its end"))?;
        read(kernel, &mut program, offset, file_size, "it ends within its program headers")?;
        if u32_at(&program, 0) != LOADABLE {
            continue;
        }
        if let Some(segment) = segment_extent(&program, file_size)? {
            extent = Some(match extent {
                None => segment,
                Some(known) => known.start.min(segment.start)..known.end.max(segment.end),
            });
        }
    }
    extent.ok_or(damaged("it has no loadable segment"))
}

fn segment_extent(program: &[u8], file_size: u64) -> Result<Option<Range<u64>>, LoadError> {
    let damaged = |problem| LoadError::Damaged { problem };
    let (offset, start) = (u64_at(program, 8), u64_at(program, 24));
    let (in_file, in_memory) = (u64_at(program, 32), u64_at(program, 40));
    if in_memory == 0 {
        return Ok(None);
    }
    if in_file > in_memory {
        return Err(damaged("a segment is larger in the file than in memory"));
    }
    match offset.checked_add(in_file) {
        Some(end) if end <= file_size => {}
        Some(_) | None => return Err(damaged("a segment lies past the file's end")),
    }
    let end = start.checked_add(in_memory).ok_or(damaged("a segment wraps around the address space"))?;
    Ok(Some(start..end))
}

fn read(
    kernel: &File,
    buffer: &mut [u8],
    offset: u64,
    file_size: u64,
    too_short: &'static str,
) -> Result<(), LoadError> {
    if offset.saturating_add(buffer.len() as u64) > file_size {
        return Err(LoadError::Damaged { problem: too_short });
    }
    kernel.read_exact_at(buffer, offset).map_err(|error| unreadable(BootFile::Kernel, error))
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the slice has N bytes")
}

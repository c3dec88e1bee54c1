//! Boot protocols: kernel, initial RAM disk, command line and what else the first vCPU must find in memory.
//!
//! An ELF with a PVH note is entered as PVH says, in 32-bit protected mode; one without, and a bzImage, at its 64-bit
//! entry as Linux has it. What the vCPU's registers then hold is `vcpu::registers`'. Files are read from their start whatever their
//! position, and are untrusted: every size in them is checked before it is used.

mod elf;
mod error;
mod linux;
mod memory_map;
mod pvh;

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;

use devices::memory::GuestMemory;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};
use vm_model::Bytes;

pub use error::{BootFile, LoadError};

use crate::layout;

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 32-bit protected mode without paging; `EBX` holds `start_info`.
    Pvh { instruction: u32, start_info: u64 },
    /// In 64-bit mode with low memory mapped to itself; `RSI` holds `boot_params`.
    Linux64 { instruction: u64, boot_params: u64 },
}

/// What a machine boots, as open files.
#[derive(Debug)]
pub(crate) struct BootSource<'a> {
    pub(crate) kernel: File,
    pub(crate) initrd: Option<File>,
    pub(crate) cmdline: &'a str,
    /// Guest-physical address of ACPI's root pointer.
    pub(crate) rsdp: u64,
    /// Of the whole machine, in bytes.
    pub(crate) memory_size: u64,
}

/// Where the initial RAM disk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    start: u64,
    size: u64,
}

/// Loads everything that `source` names into `memory` and says how to start.
///
/// # Errors
/// See [`LoadError`]. `memory` may then hold parts.
pub(crate) fn load(memory: &GuestMemory, mut source: BootSource<'_>) -> Result<Entry, LoadError> {
    let size = file_size(&source.kernel, BootFile::Kernel)?;
    let mut start = [0; 4];
    let head = usize::try_from(size.min(4)).expect("at most 4");
    source
        .kernel
        .read_exact_at(&mut start[..head], 0)
        .map_err(|error| unreadable(BootFile::Kernel, error))?;
    if elf::is_elf(start) {
        let kernel = elf::load(memory, &mut source, size)?;
        match kernel.pvh_entry {
            Some(entry) => pvh::prepare(memory, &mut source, &kernel, entry),
            None => linux::prepare_elf(memory, &mut source, &kernel),
        }
    } else if let Some(header) = linux::setup_header(&source.kernel, size)? {
        linux::load(memory, &mut source, size, &header)
    } else {
        Err(LoadError::UnknownFormat { size: Bytes::new(size), start })
    }
}

fn unreadable(file: BootFile, source: std::io::Error) -> LoadError {
    LoadError::Read { file, source }
}

fn file_size(file: &File, role: BootFile) -> Result<u64, LoadError> {
    let metadata = file.metadata().map_err(|error| unreadable(role, error))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(LoadError::NotAFile { file: role }) }
}

/// Where RAM below the hole ends in a machine of `memory_size` bytes.
fn low_memory_end(memory_size: u64) -> u64 {
    memory_size.min(layout::HOLE_START)
}

/// Writes the command line with its terminating zero; `limit` is the most bytes the kernel takes without it.
fn write_command_line(memory: &GuestMemory, cmdline: &str, limit: usize) -> Result<(), LoadError> {
    let space = usize::try_from(layout::COMMAND_LINE_SPACE).expect("64 KiB is a usize") - 1;
    let limit = limit.min(space);
    let bytes = cmdline.as_bytes();
    if bytes.len() > limit || bytes.contains(&0) {
        return Err(LoadError::CommandLine { length: bytes.len(), limit });
    }
    let mut terminated = Vec::with_capacity(bytes.len() + 1);
    terminated.extend_from_slice(bytes);
    terminated.push(0);
    write(memory, layout::COMMAND_LINE, &terminated, "the command line")
}

/// Loads the initial RAM disk as high as it may lie, so that the kernel has the most room to unpack itself.
fn load_initrd(
    memory: &GuestMemory,
    initrd: Option<&mut File>,
    from: u64,
    to: u64,
) -> Result<Option<Placed>, LoadError> {
    let Some(file) = initrd else {
        return Ok(None);
    };
    let size = file_size(file, BootFile::Initrd)?;
    if size == 0 {
        return Ok(None);
    }
    let start = place_below(size, from, to).ok_or(LoadError::InitrdDoesNotFit {
        size: Bytes::new(size),
        from,
        to,
    })?;
    file.rewind().map_err(|error| unreadable(BootFile::Initrd, error))?;
    let length = usize::try_from(size).expect("what fits below 4 GiB is a usize");
    memory
        .read_exact_volatile_from(GuestAddress(start), file, length)
        .map_err(|source| LoadError::Write { address: start, what: "the initial RAM disk", source })?;
    Ok(Some(Placed { start, size }))
}

/// The highest page-aligned address in `from..to` that has `size` bytes after it.
fn place_below(size: u64, from: u64, to: u64) -> Option<u64> {
    let start = to.checked_sub(size)? / layout::PAGE_SIZE * layout::PAGE_SIZE;
    (start >= from).then_some(start)
}

pub(crate) fn write(
    memory: &impl GuestMemoryBackend,
    address: u64,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), LoadError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|source| LoadError::Write {
        address,
        what,
        source,
    })
}

#[cfg(test)]
pub(crate) mod tests;

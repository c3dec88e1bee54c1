//! The Linux x86 boot protocol at its 64-bit entry: a bzImage or the ELF inside one, `boot_params` and page tables
//! (Linux `Documentation/arch/x86/boot.rst`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use devices::memory::GuestMemory;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use super::elf::{self, ElfKernel};
use super::memory_map::memory_map;
use super::{
    BootFile, BootSource, Entry, LoadError, Placed, load_initrd, low_memory_end, unreadable, write,
    write_command_line,
};
use crate::layout;

/// Where the setup header lies in the file.
const HEADER_OFFSET: u64 = 0x1f1;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `xloadflags` exist from this version on.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry.
const HAS_64_BIT_ENTRY: u16 = 1;
/// `loadflags`: the protected-mode code is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// Offset of the 64-bit entry from where the protected-mode code is loaded.
const ENTRY_OFFSET: u64 = 0x200;
/// `type_of_loader` of a loader without a registered number.
const UNDEFINED_LOADER: u8 = 0xff;
/// What a kernel takes that does not say.
const DEFAULT_COMMAND_LINE_LIMIT: u32 = 255;

/// The setup header of `kernel`, if it is a bzImage.
pub(super) fn setup_header(kernel: &File, file_size: u64) -> Result<Option<setup_header>, LoadError> {
    let mut header = setup_header::default();
    if file_size < HEADER_OFFSET + size_of::<setup_header>() as u64 {
        return Ok(None);
    }
    kernel
        .read_exact_at(header.as_mut_slice(), HEADER_OFFSET)
        .map_err(|error| unreadable(BootFile::Kernel, error))?;
    Ok((header.header == HEADER_MAGIC).then_some(header))
}

/// Loads a bzImage of `file_size` bytes.
pub(super) fn load(
    memory: &GuestMemory,
    source: &mut BootSource<'_>,
    file_size: u64,
    header: &setup_header,
) -> Result<Entry, LoadError> {
    let limit = low_memory_end(source.memory_size);
    let end = required_end(header, file_size)?;
    if end > limit {
        return Err(LoadError::KernelDoesNotFit { start: layout::HIGH_MEMORY, end, limit });
    }
    let load_address = GuestAddress(layout::HIGH_MEMORY);
    let loaded =
        BzImage::load(memory, Some(load_address), &mut source.kernel, None).map_err(LoadError::Load)?;
    let mut header = loaded.setup_header.ok_or(LoadError::Load(loader::Error::InvalidKernelStartAddress))?;

    let highest = u64::from(header.initrd_addr_max) + 1;
    let from = end.next_multiple_of(layout::PAGE_SIZE);
    let initrd = load_initrd(memory, source.initrd.as_mut(), from, highest.min(limit))?;
    let line_limit = match header.cmdline_size {
        0 => DEFAULT_COMMAND_LINE_LIMIT,
        size => size,
    };
    let line_limit = usize::try_from(line_limit).expect("32 bits fit a usize");
    write_command_line(memory, source.cmdline, line_limit)?;

    fill_header(&mut header, initrd);
    write_boot_params(memory, source, header)?;
    write_page_tables(memory)?;
    Ok(Entry::Linux64 { instruction: loaded.kernel_load.0 + ENTRY_OFFSET, boot_params: layout::ZERO_PAGE })
}

/// Puts what Linux wants at its 64-bit entry around a loaded `kernel`, which is where an ELF of Linux starts.
///
/// There is no setup header to start from, so that the fields are those which a kernel reads back from its loader.
pub(super) fn prepare_elf(
    memory: &GuestMemory,
    source: &mut BootSource<'_>,
    kernel: &ElfKernel,
) -> Result<Entry, LoadError> {
    if !kernel.extent.contains(&kernel.entry) {
        return Err(LoadError::NoElfEntry { entry: kernel.entry });
    }
    let limit = low_memory_end(source.memory_size);
    let initrd = load_initrd(memory, source.initrd.as_mut(), kernel.after(), limit)?;
    write_command_line(memory, source.cmdline, elf::COMMAND_LINE_LIMIT)?;

    let mut header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: OLDEST_PROTOCOL,
        loadflags: LOADED_HIGH,
        cmdline_size: u32::try_from(elf::COMMAND_LINE_LIMIT).expect("2047 fits 32 bits"),
        ..Default::default()
    };
    fill_header(&mut header, initrd);
    write_boot_params(memory, source, header)?;
    write_page_tables(memory)?;
    Ok(Entry::Linux64 { instruction: kernel.entry, boot_params: layout::ZERO_PAGE })
}

/// Where the memory ends that the kernel writes to before it reads its memory map.
///
/// A kernel loaded below its preferred address moves there, and unpacks itself within `init_size` from it.
fn required_end(header: &setup_header, file_size: u64) -> Result<u64, LoadError> {
    let version = header.version;
    if version < OLDEST_PROTOCOL || header.xloadflags & HAS_64_BIT_ENTRY == 0 {
        return Err(LoadError::No64BitEntry { major: version >> 8, minor: version & 0xff });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(LoadError::Damaged { problem: "it is a zImage, which loads below 1 MiB" });
    }
    let sectors = match header.setup_sects {
        0 => 4,
        count => u64::from(count),
    };
    let code = file_size
        .checked_sub((sectors + 1) * 512)
        .filter(|code| *code > ENTRY_OFFSET)
        .ok_or(LoadError::Damaged { problem: "it ends within its real-mode part" })?;
    let start = layout::HIGH_MEMORY.max(header.pref_address);
    let unpacked = start
        .checked_add(u64::from(header.init_size))
        .ok_or(LoadError::Damaged { problem: "its preferred address wraps around the address space" })?;
    Ok(unpacked.max(layout::HIGH_MEMORY + code))
}

fn fill_header(header: &mut setup_header, initrd: Option<Placed>) {
    header.type_of_loader = UNDEFINED_LOADER;
    header.cmd_line_ptr = below_4_gib(layout::COMMAND_LINE);
    if let Some(placed) = initrd {
        header.ramdisk_image = below_4_gib(placed.start);
        header.ramdisk_size = below_4_gib(placed.size);
    }
}

fn below_4_gib(value: u64) -> u32 {
    u32::try_from(value).expect("boot structures and initial RAM disks lie below the hole")
}

fn write_boot_params(
    memory: &GuestMemory,
    source: &BootSource<'_>,
    header: setup_header,
) -> Result<(), LoadError> {
    let map = memory_map(source.memory_size);
    let mut zero_page = boot_params {
        hdr: header,
        acpi_rsdp_addr: source.rsdp,
        e820_entries: u8::try_from(map.len()).expect("a map has a handful of entries"),
        ..Default::default()
    };
    for (slot, entry) in zero_page.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.length, r#type: entry.kind as u32 };
    }
    let parameters = BootParams::new(&zero_page, GuestAddress(layout::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&parameters, memory)
        .map_err(|_| LoadError::Load(loader::Error::MemoryOverflow))
}

/// Maps the first 4 GiB to themselves with 2 MiB pages (Intel SDM volume 3 §4.5).
fn write_page_tables(memory: &GuestMemory) -> Result<(), LoadError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const DIRECTORIES: u64 = 4;
    let pointers = layout::PAGE_TABLES + layout::PAGE_SIZE;
    let directories = pointers + layout::PAGE_SIZE;
    let page_size = usize::try_from(layout::PAGE_SIZE).expect("4096 is a usize");

    let mut tables = Vec::with_capacity(6 * page_size);
    tables.extend_from_slice(&(pointers | PRESENT_WRITABLE).to_le_bytes());
    tables.resize(page_size, 0);
    for index in 0..DIRECTORIES {
        let directory = directories + index * layout::PAGE_SIZE;
        tables.extend_from_slice(&(directory | PRESENT_WRITABLE).to_le_bytes());
    }
    tables.resize(2 * page_size, 0);
    for index in 0..DIRECTORIES * 512 {
        tables.extend_from_slice(&(index << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes());
    }
    write(memory, layout::PAGE_TABLES, &tables, "page tables")
}

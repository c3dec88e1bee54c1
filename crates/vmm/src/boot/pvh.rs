//! The PVH boot protocol: an ELF with a Xen note, `hvm_start_info` and its tables
//! (Xen `docs/misc/pvh.pandoc`, `xen/include/public/arch-x86/hvm/start_info.h`).

use devices::memory::GuestMemory;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::GuestAddress;

use super::elf::{self, ElfKernel};
use super::memory_map::memory_map;
use super::{BootSource, Entry, LoadError, Placed, load_initrd, low_memory_end, write_command_line};
use crate::layout;

/// `hvm_start_info.magic`.
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const START_INFO_VERSION: u32 = 1;

/// Puts what PVH wants around a loaded `kernel` whose note names `entry`.
pub(super) fn prepare(
    memory: &GuestMemory,
    source: &mut BootSource<'_>,
    kernel: &ElfKernel,
    entry: u64,
) -> Result<Entry, LoadError> {
    if !kernel.extent.contains(&entry) {
        return Err(LoadError::Damaged { problem: "its PVH entry lies outside its segments" });
    }
    let limit = low_memory_end(source.memory_size);
    let initrd = load_initrd(memory, source.initrd.as_mut(), kernel.after(), limit)?;
    write_command_line(memory, source.cmdline, elf::COMMAND_LINE_LIMIT)?;
    write_start_info(memory, source, initrd)?;
    Ok(Entry::Pvh {
        instruction: u32::try_from(entry).expect("the entry lies below the hole"),
        start_info: layout::PVH_START_INFO,
    })
}

fn write_start_info(
    memory: &GuestMemory,
    source: &BootSource<'_>,
    initrd: Option<Placed>,
) -> Result<(), LoadError> {
    let map: Vec<hvm_memmap_table_entry> = memory_map(source.memory_size)
        .into_iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.length,
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let modules: Vec<hvm_modlist_entry> = initrd
        .into_iter()
        .map(|placed| hvm_modlist_entry { paddr: placed.start, size: placed.size, ..Default::default() })
        .collect();
    let start_info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: START_INFO_VERSION,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if modules.is_empty() { 0 } else { layout::PVH_MODULES },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: source.rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).expect("a map has a handful of entries"),
        ..Default::default()
    };
    let mut parameters = BootParams::new(&start_info, GuestAddress(layout::PVH_START_INFO));
    parameters.set_sections(&map, GuestAddress(layout::PVH_MEMORY_MAP));
    if !modules.is_empty() {
        parameters.set_modules(&modules, GuestAddress(layout::PVH_MODULES));
    }
    // The structures lie in the first pages, which even the smallest machine has.
    PvhBootConfigurator::write_bootparams(&parameters, memory)
        .map_err(|_| LoadError::Load(loader::Error::MemoryOverflow))
}

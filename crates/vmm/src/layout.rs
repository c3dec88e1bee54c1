//! Where everything lies: guest-physical addresses, I/O ports and interrupt numbers, all in this file.
//!
//! ```text
//! 0                      GDT, boot information, page tables, command line
//! 0x9_fc00 – 0xf_ffff    not RAM for the guest: generation identifier at 0xd_f040, ACPI tables from 0xe_0000, SMBIOS
//!                        from 0xf_0000
//! 1 MiB – 3 GiB          RAM: kernel, initial RAM disk as high as it may be
//! 3 GiB – 4 GiB          the hole: PCI window, ECAM, I/O APIC, event device, local APIC, KVM's own pages
//! 4 GiB –                the rest of RAM
//! ```
//!
//! Which device sits in which slot is decided where a machine is assembled; this file only has the arithmetic.

use std::ops::Range;

/// The size of a page.
pub(crate) const PAGE_SIZE: u64 = 4096;

/// The global descriptor table a vCPU starts with.
pub(crate) const GDT: u64 = 0x500;
/// PVH's `hvm_start_info`.
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// PVH's list of modules: the initial RAM disk.
pub(crate) const PVH_MODULES: u64 = 0x6100;
/// PVH's memory map.
pub(crate) const PVH_MEMORY_MAP: u64 = 0x6200;
/// Linux's `boot_params`, one page.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the 64-bit entry: one PML4, one directory of pointers, four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes reserved for the command line with its terminating zero.
pub(crate) const COMMAND_LINE_SPACE: u64 = 0x1_0000;
/// Where conventional memory ends and the extended BIOS data area of a PC would start.
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The page of the generation identifier, which shares it with nothing (Virtual Machine Generation ID §2.2).
pub(crate) const GENERATION_PAGE: Range<u64> = 0xd_f000..0xe_0000;
/// The identifier in it: not at the start of 2 KiB, where kernels look for option ROMs.
pub(crate) const GENERATION_ID: u64 = GENERATION_PAGE.start + 0x40;
/// The root pointer of ACPI, where a scan finds it (ACPI 6.4 §5.2.5.1), and the tables after it.
pub(crate) const ACPI: Range<u64> = 0xe_0000..0xf_0000;
/// The SMBIOS entry point, where a scan finds it (SMBIOS 3.2 §5.2.2), and the structures after it.
pub(crate) const SMBIOS: Range<u64> = 0xf_0000..0xf_fff0;
/// Where a processor in real mode goes to reset the machine (0xFFFF:0).
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// Where memory above the PC's first mebibyte starts; kernels are loaded from here on.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// Where low RAM must end and the PCI hole starts.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// Where the PCI hole ends and RAM goes on.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// Where 32-bit base address registers are placed.
pub(crate) const PCI_WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;
/// The memory-mapped configuration space of bus 0, the only one.
pub(crate) const PCI_ECAM: Range<u64> = 0xe000_0000..0xe010_0000;
/// The I/O APIC's registers, which KVM serves.
pub(crate) const IO_APIC: u64 = 0xfec0_0000;
/// The ACPI event device's register page.
pub(crate) const EVENT_DEVICE: Range<u64> = 0xfec1_0000..0xfec1_1000;
/// The local APICs' registers, which KVM serves.
pub(crate) const LOCAL_APIC: u64 = 0xfee0_0000;

/// Ports of the real-time clock.
pub(crate) const RTC_PORTS: Range<u64> = 0x70..0x72;
/// Ports of the keyboard controller, which is there for its reset pulse alone.
pub(crate) const KEYBOARD_PORTS: Range<u64> = 0x60..0x65;
/// Ports of the first serial port.
pub(crate) const SERIAL_PORTS: Range<u64> = 0x3f8..0x400;
/// The panic device.
pub(crate) const PANIC_PORTS: Range<u64> = 0x505..0x506;
/// The ACPI sleep and reset register.
pub(crate) const SLEEP_PORTS: Range<u64> = 0x600..0x601;
/// PCI configuration mechanism #1.
pub(crate) const PCI_CONFIG_PORTS: Range<u64> = 0xcf8..0xd00;

/// The serial port's interrupt.
pub(crate) const SERIAL_GSI: u32 = 4;
/// The event device's interrupt.
pub(crate) const EVENT_DEVICE_GSI: u32 = 10;
/// The first interrupt number past the I/O APIC's pins: message-signalled interrupts are numbered from here.
pub(crate) const FIRST_MESSAGE_GSI: u32 = 24;

/// Slots on bus 0, the host bridge's slot 0 among them.
pub(crate) const PCI_SLOTS: u8 = 32;
const _: () =
    assert!(PCI_SLOTS as usize == vm_model::PCI_DEVICES_MAX + 1, "descriptions are held to the same");
/// Distance between the base addresses handed to neighbouring slots; at least a function's largest register.
pub(crate) const PCI_BAR_STRIDE: u64 = 0x10_0000;

/// The address assigned to the base address register of the function in `slot`.
pub(crate) fn pci_bar_address(slot: u8) -> u64 {
    PCI_WINDOW.start + u64::from(slot) * PCI_BAR_STRIDE
}

/// The guest-physical ranges that RAM of `size` bytes occupies: one, or two around the hole.
///
/// Sizes whose end would not fit an address are cut there; callers have bounded `size` before.
pub(crate) fn ram_ranges(size: u64) -> Vec<Range<u64>> {
    let low = size.min(HOLE_START);
    let ranges = [0..low, HOLE_END..HOLE_END.saturating_add(size - low)];
    ranges.into_iter().filter(|range| !range.is_empty()).collect()
}

/// The last guest-physical address in use: RAM's, or that of the hole's end.
pub(crate) fn highest_address(memory_size: u64) -> u64 {
    ram_ranges(memory_size).last().map_or(HOLE_END, |range| range.end.max(HOLE_END)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    /// Four pages that `hypervisor` gives to KVM: an identity map and a task state segment.
    const KVM_PAGES: Range<u64> = 0xfffb_c000..0xfffc_0000;

    #[test]
    fn ram_goes_around_the_hole() {
        let ranges = |size| -> Vec<(u64, u64)> {
            let ranges = ram_ranges(size).into_iter();
            ranges.map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
        let beyond = 4 * GIB + PAGE_SIZE;
        assert_eq!(ranges(3 * GIB + PAGE_SIZE), [(0, 3 * GIB), (4 * GIB, beyond)]);
        assert_eq!(ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 6 * GIB)]);
        assert_eq!(highest_address(GIB), 4 * GIB - 1);
        assert_eq!(highest_address(5 * GIB), 6 * GIB - 1);
    }

    #[test]
    fn nothing_in_the_hole_overlaps() {
        let mut ranges = [
            PCI_WINDOW,
            PCI_ECAM,
            IO_APIC..IO_APIC + PAGE_SIZE,
            EVENT_DEVICE,
            LOCAL_APIC..LOCAL_APIC + PAGE_SIZE,
            KVM_PAGES,
        ];
        ranges.sort_by_key(|range| range.start);
        assert_eq!(ranges[0].start, HOLE_START);
        assert!(ranges[ranges.len() - 1].end <= HOLE_END);
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?} overlap");
        }
    }

    #[test]
    fn every_slot_has_its_own_base_address() {
        assert!(pci_bar_address(PCI_SLOTS - 1) + PCI_BAR_STRIDE <= PCI_WINDOW.end);
        assert_eq!(pci_bar_address(2) - pci_bar_address(1), PCI_BAR_STRIDE);
    }
}

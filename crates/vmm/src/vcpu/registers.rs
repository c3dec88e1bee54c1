//! The registers a vCPU has at its first instruction, as each boot protocol wants them. Pure, but for the table
//! that the segment registers were loaded from, which goes to guest memory.
#![expect(
    clippy::cast_possible_truncation,
    reason = "descriptors are built of register fields cut to their width"
)]

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use crate::boot::Entry;
use crate::layout;

const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Bit 1 of EFLAGS always reads as one.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Segment types (Intel SDM volume 3 §3.4.5.1, §3.5): accessed, so that loading them writes no memory.
const TYPE_CODE: u8 = 0b1011;
const TYPE_DATA: u8 = 0b0011;
const TYPE_TASK_BUSY: u8 = 0b1011;

/// Entries of the table: Linux wants code at 0x10 and data at 0x18.
const CODE_INDEX: u16 = 2;
const DATA_INDEX: u16 = 3;
const TASK_INDEX: u16 = 4;
const ENTRIES: usize = 5;

/// The descriptor table to write at `layout::GDT`.
pub(super) fn descriptor_table(entry: &Entry) -> Vec<u8> {
    let mut table = [0_u64; ENTRIES];
    for segment in [code(entry), data(), task()] {
        table[usize::from(segment.selector / 8)] = descriptor(&segment);
    }
    table.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect()
}

/// Changes `registers`, as they are after a reset, to what `entry` wants.
pub(super) fn system(registers: &mut kvm_sregs, entry: &Entry) {
    registers.gdt = kvm_dtable { base: layout::GDT, limit: (ENTRIES * 8 - 1) as u16, ..Default::default() };
    registers.idt = kvm_dtable::default();
    registers.cs = code(entry);
    for segment in
        [&mut registers.ds, &mut registers.es, &mut registers.fs, &mut registers.gs, &mut registers.ss]
    {
        *segment = data();
    }
    registers.tr = task();
    registers.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    registers.cr4 = 0;
    match entry {
        Entry::Pvh { .. } => {}
        Entry::Linux64 { .. } => {
            registers.cr0 |= CR0_PAGING;
            registers.cr3 = layout::PAGE_TABLES;
            registers.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
            registers.efer = EFER_LONG_MODE;
        }
    }
}

/// The general registers for `entry`; interrupts are off.
pub(super) fn general(entry: &Entry) -> kvm_regs {
    let mut registers = kvm_regs { rflags: RFLAGS_FIXED, ..Default::default() };
    match *entry {
        Entry::Pvh { instruction, start_info } => {
            registers.rip = u64::from(instruction);
            registers.rbx = start_info;
        }
        Entry::Linux64 { instruction, boot_params } => {
            registers.rip = instruction;
            registers.rsi = boot_params;
        }
    }
    registers
}

fn flat(index: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        selector: index * 8,
        base: 0,
        limit: u32::MAX,
        type_,
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    }
}

fn code(entry: &Entry) -> kvm_segment {
    let segment = flat(CODE_INDEX, TYPE_CODE);
    match entry {
        Entry::Pvh { .. } => segment,
        // A 64-bit code segment has L set and D clear.
        Entry::Linux64 { .. } => kvm_segment { l: 1, db: 0, ..segment },
    }
}

fn data() -> kvm_segment {
    flat(DATA_INDEX, TYPE_DATA)
}

fn task() -> kvm_segment {
    kvm_segment {
        selector: TASK_INDEX * 8,
        limit: 0x67,
        type_: TYPE_TASK_BUSY,
        present: 1,
        ..Default::default()
    }
}

/// The memory form of a segment (Intel SDM volume 3 §3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    const PVH: Entry = Entry::Pvh { instruction: 0x10_0000, start_info: 0x6000 };
    const LINUX: Entry = Entry::Linux64 { instruction: 0x10_0200, boot_params: 0x7000 };

    fn table(entry: &Entry) -> Vec<u64> {
        descriptor_table(entry).chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(table(&PVH), [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]);
        assert_eq!(table(&LINUX)[2], 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn pvh_starts_in_protected_mode_without_paging() {
        let mut system_registers = kvm_sregs { cr3: 7, ..Default::default() };
        system(&mut system_registers, &PVH);
        assert_eq!((system_registers.cr0, system_registers.cr4, system_registers.efer), (0x11, 0, 0));
        assert_eq!((system_registers.cs.db, system_registers.cs.l), (1, 0));
        let registers = general(&PVH);
        assert_eq!((registers.rip, registers.rbx, registers.rflags), (0x10_0000, 0x6000, 2));
    }

    #[test]
    fn linux_starts_in_long_mode_with_its_selectors() {
        let mut system_registers = kvm_sregs::default();
        system(&mut system_registers, &LINUX);
        assert_eq!(system_registers.cr0, 0x8000_0011);
        assert_eq!(
            (system_registers.cr3, system_registers.cr4, system_registers.efer),
            (0x9000, 0x20, 0x500)
        );
        assert_eq!((system_registers.cs.selector, system_registers.ds.selector), (0x10, 0x18));
        assert_eq!((system_registers.cs.db, system_registers.cs.l), (0, 1));
        assert_eq!(general(&LINUX).rsi, 0x7000);
    }
}

//! `docs/machine.md` held against the code: its addresses, ports and bits of CPUID.

use std::ops::Range;

use hypervisor::kvm_cpuid_entry2;
use vm_model::CpuSpec;

use crate::cpuid::{self, CpuidShape};
use crate::layout;
use crate::topology::Topology;

const MACHINE: &str = include_str!("../../../docs/machine.md");

/// Whether a row of a table begins with these cells.
fn has_row(cells: &str) -> bool {
    MACHINE.lines().any(|line| line.starts_with(&format!("| {cells} |")))
}

fn addresses(range: &Range<u64>) -> String {
    format!("`{:#x}`–`{:#x}`", range.start, range.end)
}

fn ports(range: &Range<u64>) -> String {
    format!("`{:#x}`–`{:#x}`", range.start, range.end - 1)
}

#[test]
fn addresses_and_ports_are_those_of_the_layout() {
    let expected = [
        addresses(&(0..layout::CONVENTIONAL_END)),
        addresses(&(layout::CONVENTIONAL_END..layout::HIGH_MEMORY)),
        addresses(&(layout::HIGH_MEMORY..layout::HOLE_START)),
        addresses(&layout::PCI_WINDOW),
        addresses(&layout::PCI_ECAM),
        format!("`{:#x}`", layout::IO_APIC),
        addresses(&layout::EVENT_DEVICE),
        format!("`{:#x}`", layout::LOCAL_APIC),
        format!("`{:#x}`–", layout::HOLE_END),
        ports(&layout::KEYBOARD_PORTS),
        ports(&layout::RTC_PORTS),
        ports(&layout::SERIAL_PORTS),
        ports(&layout::PANIC_PORTS),
        ports(&layout::SLEEP_PORTS),
        ports(&layout::PCI_CONFIG_PORTS),
    ];
    for cell in expected {
        assert!(has_row(&cell), "docs/machine.md has no row {cell}");
    }
}

/// A host that supports everything but the state of tiles.
fn generous_host() -> Vec<kvm_cpuid_entry2> {
    let functions = (0..0x24).chain(0x8000_0000..0x8000_0028);
    let leaf = |function, index| kvm_cpuid_entry2 {
        function,
        index,
        eax: if (function, index) == (0xd, 0) { 7 } else { u32::MAX },
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    };
    functions
        .flat_map(|function| (0..=u32::from(function == 7)).map(move |index| leaf(function, index)))
        .collect()
}

#[test]
fn what_cpuid_lacks_is_what_the_document_says() {
    let topology = Topology::of(&CpuSpec::of(1)).expect("one processor has a place");
    let shape = CpuidShape { topology, tsc_deadline: true, max_phys_bits: None };
    let mut empty = Vec::new();
    for leaf in cpuid::for_machine(&generous_host(), &shape) {
        // Those that tell of the topology have values of their own, and are the host's in nothing.
        if matches!(leaf.function, 0x4 | 0xb | 0xd | 0x1f | 0x8000_0008 | 0x8000_001d | 0x8000_001e) {
            continue;
        }
        let registers = [("EAX", leaf.eax), ("EBX", leaf.ebx), ("ECX", leaf.ecx), ("EDX", leaf.edx)];
        if registers.iter().all(|(_, value)| *value == 0) {
            empty.push(format!("`{:#x}`", leaf.function));
            continue;
        }
        for (register, value) in registers {
            let is_of_the_topology =
                matches!((leaf.function, register), (1, "EBX" | "EDX") | (0x8000_0001, "EDX"));
            let off: Vec<String> =
                (0..32).filter(|bit| value & 1 << bit == 0).map(|bit: u32| bit.to_string()).collect();
            if off.is_empty() || is_of_the_topology {
                continue;
            }
            let index = if leaf.function == 7 { format!(".{}", leaf.index) } else { String::new() };
            let row = format!("`{:#x}{index}` {register} | {}", leaf.function, off.join(", "));
            assert!(has_row(&row), "docs/machine.md has no row {row}");
        }
    }
    let listed = format!("Leaves that are empty: {}.", empty.join(", "));
    let unwrapped = MACHINE.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains(&listed), "docs/machine.md lacks {listed:?}");
}

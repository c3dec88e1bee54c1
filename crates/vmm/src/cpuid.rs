//! What a guest's CPUID says: the host's supported leaves, cut to what this machine stands behind and told apart
//! for each vCPU. Pure. `docs/machine.md` has it for users, and a test that it is the same.
//!
//! | what | why |
//! |---|---|
//! | hypervisor bit on, TSC-deadline timer on where KVM has it | KVM emulates both but older kernels list neither |
//! | APIC ids and topology (1, 4, 0xB, 0x1F, 0x8000_0008, 0x8000_001D, 0x8000_001E) | as the machine's topology has it |
//! | VMX and SVM off, their leaves empty | no guests inside guests |
//! | performance monitoring empty (0xA, 0x8000_0022), PDCM off | counters are not virtualised |
//! | MONITOR off | waiting belongs to HLT, which KVM can account for |
//! | SGX, processor trace and platform monitoring empty | no such state is kept |
//! | tiles (AMX) off where their state is not offered | instructions without their state fault |
//! | physical address bits clamped | as the machine's description says |
//!
//! KVM's own leaves (0x4000_0000 and on) stay as they are. Registers are as in the Intel SDM volume 2 (CPUID) and the
//! AMD APM volume 3 appendix E.

mod topology;

use hypervisor::kvm_cpuid_entry2;

use crate::topology::Topology;

/// What the leaves depend on besides the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuidShape {
    /// Where the vCPUs sit.
    pub(crate) topology: Topology,
    /// KVM emulates the local APIC's TSC-deadline timer.
    pub(crate) tsc_deadline: bool,
    /// The most physical address bits to offer.
    pub(crate) max_phys_bits: Option<u8>,
}

/// Physical address bits of a CPU that does not say (APM volume 3 E.4.7).
const DEFAULT_PHYS_BITS: u8 = 36;

mod leaf1 {
    pub(super) const ECX_MONITOR: u32 = 1 << 3;
    pub(super) const ECX_VMX: u32 = 1 << 5;
    pub(super) const ECX_PDCM: u32 = 1 << 15;
    pub(super) const ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const ECX_OSXSAVE: u32 = 1 << 27;
    pub(super) const ECX_HYPERVISOR: u32 = 1 << 31;
}

/// `CPUID.7.0:EBX`: SGX, platform QoS monitoring and enforcement, processor trace.
const LEAF7_EBX_NOT_OFFERED: u32 = 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25;
/// `CPUID.7.0:ECX`: SGX launch control, key locker.
const LEAF7_ECX_NOT_OFFERED: u32 = 1 << 30 | 1 << 23;
/// `CPUID.0xD.0:EAX`: the state of tiles, configuration and data.
const XCR0_TILES: u32 = 1 << 17 | 1 << 18;
/// `CPUID.7.0:EDX`: tiles and what multiplies brain floats and bytes on them; 7.1: half floats, complex numbers.
const LEAF7_EDX_TILES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
const LEAF7_1_EAX_TILES: u32 = 1 << 21;
const LEAF7_1_EDX_TILES: u32 = 1 << 8;
/// `CPUID.8000_0001:ECX`: SVM, instruction-based sampling, SKINIT, watchdog, performance counter extensions.
const EXTENDED_ECX_NOT_OFFERED: u32 = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 23 | 1 << 24 | 1 << 28;

/// The leaves of a machine that are the same for all its vCPUs, from those that the host supports.
pub(crate) fn for_machine(supported: &[kvm_cpuid_entry2], shape: &CpuidShape) -> Vec<kvm_cpuid_entry2> {
    let mut leaves: Vec<kvm_cpuid_entry2> = supported.to_vec();
    for leaf in &mut leaves {
        cut(leaf, shape);
    }
    drop_tiles_without_state(&mut leaves);
    topology::for_machine(&mut leaves, &shape.topology);
    leaves
}

/// Drops what computes on tiles where leaf 0xD does not offer their state: KVM grants that to processes that asked for
/// it alone, but some versions list the instructions all the same.
fn drop_tiles_without_state(leaves: &mut [kvm_cpuid_entry2]) {
    let offered = |leaf: &kvm_cpuid_entry2| {
        leaf.function == 0xd && leaf.index == 0 && leaf.eax & XCR0_TILES == XCR0_TILES
    };
    if leaves.iter().any(offered) {
        return;
    }
    for leaf in leaves {
        match (leaf.function, leaf.index) {
            (7, 0) => leaf.edx &= !LEAF7_EDX_TILES,
            (7, 1) => {
                leaf.eax &= !LEAF7_1_EAX_TILES;
                leaf.edx &= !LEAF7_1_EDX_TILES;
            }
            (0x1d | 0x1e, _) => empty(leaf),
            _ => {}
        }
    }
}

/// The same leaves as vCPU `index` sees them.
pub(crate) fn for_vcpu(
    machine: &[kvm_cpuid_entry2],
    topology: &Topology,
    index: u8,
) -> Vec<kvm_cpuid_entry2> {
    let mut leaves = machine.to_vec();
    topology::for_vcpu(&mut leaves, topology, index);
    leaves
}

/// The physical address bits that `leaves` offer.
pub(crate) fn phys_bits(leaves: &[kvm_cpuid_entry2]) -> u8 {
    leaves
        .iter()
        .find(|leaf| leaf.function == 0x8000_0008)
        .map_or(DEFAULT_PHYS_BITS, |leaf| leaf.eax.to_le_bytes()[0])
}

fn cut(leaf: &mut kvm_cpuid_entry2, shape: &CpuidShape) {
    match leaf.function {
        1 => {
            leaf.ecx &= !(leaf1::ECX_MONITOR | leaf1::ECX_VMX | leaf1::ECX_PDCM | leaf1::ECX_OSXSAVE);
            leaf.ecx |= leaf1::ECX_HYPERVISOR;
            if shape.tsc_deadline {
                leaf.ecx |= leaf1::ECX_TSC_DEADLINE;
            }
        }
        // MONITOR, performance monitoring, QoS monitoring and enforcement, SGX, processor trace, key locker, SVM,
        // sampling, extended performance monitoring, and AMD's own leaf about levels, which would speak of the host's.
        5 | 0xa | 0xf | 0x10 | 0x12 | 0x14 | 0x19 | 0x8000_000a | 0x8000_001b | 0x8000_0022 | 0x8000_0026 => {
            empty(leaf)
        }
        7 if leaf.index == 0 => {
            leaf.ebx &= !LEAF7_EBX_NOT_OFFERED;
            leaf.ecx &= !LEAF7_ECX_NOT_OFFERED;
        }
        0x8000_0001 => leaf.ecx &= !EXTENDED_ECX_NOT_OFFERED,
        0x8000_0008 => {
            if let Some(most) = shape.max_phys_bits {
                let [bits, rest @ ..] = leaf.eax.to_le_bytes();
                leaf.eax = u32::from_le_bytes([bits.min(most), rest[0], rest[1], rest[2]]);
            }
        }
        _ => {}
    }
}

fn empty(leaf: &mut kvm_cpuid_entry2) {
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests;

//! Which vCPU shares what with which: one package whose cores are the vCPUs, one thread each, one last-level
//! cache. Linux trusts these leaves over the ACPI tables when it builds its scheduling domains.

use hypervisor::kvm_cpuid_entry2;
use kvm_bindings_flags::SIGNIFICANT_INDEX;

/// The one flag of an entry that matters here (KVM API, `KVM_SET_CPUID2`).
mod kvm_bindings_flags {
    pub(super) const SIGNIFICANT_INDEX: u32 = 1;
}

/// `CPUID.1:EDX`: the package has more than one logical processor id.
const EDX_HTT: u32 = 1 << 28;
/// `CPUID.8000_0001:ECX` of AMD: the package's logical processors are cores, not threads.
const ECX_CMP_LEGACY: u32 = 1 << 1;
/// `CPUID.8000_0001:ECX` of AMD: leaves 0x8000_001D and 0x8000_001E are valid.
const ECX_TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Level types of leaves 0xB and 0x1F.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// What is the same for all vCPUs.
pub(super) fn for_machine(leaves: &mut Vec<kvm_cpuid_entry2>, vcpus: u8) {
    let amd = is_amd(leaves);
    for leaf in leaves.iter_mut() {
        match leaf.function {
            1 => {
                let [brand, flush, _, apic_id] = leaf.ebx.to_le_bytes();
                leaf.ebx = u32::from_le_bytes([brand, flush, vcpus, apic_id]);
                set(&mut leaf.edx, EDX_HTT, vcpus > 1);
            }
            4 => share_cache(&mut leaf.eax, vcpus, CacheLeaf::WithCores),
            0x8000_0001 if amd => {
                set(&mut leaf.ecx, ECX_CMP_LEGACY, vcpus > 1);
            }
            0x8000_0008 if amd => {
                leaf.ecx = leaf.ecx & !0xf0ff | u32::from(vcpus - 1) | id_bits(vcpus) << 12;
            }
            0x8000_001d => share_cache(&mut leaf.eax, vcpus, CacheLeaf::CacheOnly),
            _ => {}
        }
    }
    replace_levels(leaves, vcpus);
}

/// What tells vCPU `index` from the others.
pub(super) fn for_vcpu(leaves: &mut [kvm_cpuid_entry2], index: u8) {
    let topology_extensions =
        leaves.iter().any(|leaf| leaf.function == 0x8000_0001 && leaf.ecx & ECX_TOPOLOGY_EXTENSIONS != 0);
    for leaf in leaves.iter_mut() {
        match leaf.function {
            1 => {
                let [brand, flush, count, _] = leaf.ebx.to_le_bytes();
                leaf.ebx = u32::from_le_bytes([brand, flush, count, index]);
            }
            0xb | 0x1f => leaf.edx = u32::from(index),
            0x8000_001e if topology_extensions => {
                leaf.eax = u32::from(index);
                // One thread a core (0 is one), which is the core of the same number; one node.
                leaf.ebx = u32::from(index);
                leaf.ecx = 0;
            }
            _ => {}
        }
    }
}

fn is_amd(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves.iter().any(|leaf| {
        leaf.function == 0
            && [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat().as_slice().eq(b"AuthenticAMD")
    })
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

/// Bits that tell `vcpus` ids apart.
fn id_bits(vcpus: u8) -> u32 {
    u32::from(vcpus.max(1)).next_power_of_two().trailing_zeros()
}

/// Whether bits 31–26 of EAX hold the package's cores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CacheLeaf {
    WithCores,
    CacheOnly,
}

/// Gives each vCPU its own first and second cache level, and the package the third.
fn share_cache(eax: &mut u32, vcpus: u8, kind: CacheLeaf) {
    const SHARING: u32 = 0xfff << 14;
    const CORES: u32 = 0x3f << 26;
    if *eax & 0x1f == 0 {
        return;
    }
    let level = *eax >> 5 & 0x7;
    let package_ids = u32::from(vcpus.max(1)).next_power_of_two();
    let sharing = if level >= 3 { package_ids - 1 } else { 0 };
    *eax = *eax & !SHARING | sharing << 14;
    if kind == CacheLeaf::WithCores {
        *eax = *eax & !CORES | (package_ids - 1).min(0x3f) << 26;
    }
}

/// Writes leaves 0xB and 0x1F anew where the CPU's highest leaf reaches them: threads, then cores, then no more.
fn replace_levels(leaves: &mut Vec<kvm_cpuid_entry2>, vcpus: u8) {
    let highest = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    leaves.retain(|leaf| !matches!(leaf.function, 0xb | 0x1f));
    for function in [0xb, 0x1f] {
        if highest < function {
            continue;
        }
        let levels = [(0, 1, LEVEL_THREAD), (id_bits(vcpus), u32::from(vcpus), LEVEL_CORE | 1), (0, 0, 2)];
        for (index, (eax, ebx, ecx)) in (0..).zip(levels) {
            leaves.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: SIGNIFICANT_INDEX,
                eax,
                ebx,
                ecx,
                ..Default::default()
            });
        }
    }
}

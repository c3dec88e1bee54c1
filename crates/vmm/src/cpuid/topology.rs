//! Which vCPU shares what with which: first and second cache levels are a core's, the third is a die's. Linux trusts
//! these leaves over the ACPI tables when it builds its scheduling domains.

use hypervisor::kvm_cpuid_entry2;
use kvm_bindings_flags::SIGNIFICANT_INDEX;

use crate::topology::Topology;

/// The one flag of an entry that matters here (KVM API, `KVM_SET_CPUID2`).
mod kvm_bindings_flags {
    pub(super) const SIGNIFICANT_INDEX: u32 = 1;
}

/// `CPUID.1:EDX`: the package has more than one logical processor id.
const EDX_HTT: u32 = 1 << 28;
/// `CPUID.8000_0001:ECX` of AMD: the package has more than one core in the sense of leaf 1.
const ECX_CMP_LEGACY: u32 = 1 << 1;
/// `CPUID.8000_0001:ECX` of AMD: leaves 0x8000_001D and 0x8000_001E are valid.
const ECX_TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Level types of leaves 0xB and 0x1F.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
const LEVEL_DIE: u32 = 5 << 8;
/// The leaf that tells dies apart.
const DIE_LEAF: u32 = 0x1f;

/// What is the same for all vCPUs.
pub(super) fn for_machine(leaves: &mut Vec<kvm_cpuid_entry2>, topology: &Topology) {
    let amd = is_amd(leaves);
    let threads = topology.threads_per_package();
    // Intel has software count ids, AMD what is there.
    let counted = if amd { threads } else { 1 << topology.package_shift() };
    let counted = u8::try_from(counted).unwrap_or(u8::MAX);
    for leaf in leaves.iter_mut() {
        match leaf.function {
            // AMD tells dies apart by node ids instead.
            0 if !amd && topology.dies_per_package() > 1 && leaf.eax >= 0xb => {
                leaf.eax = leaf.eax.max(DIE_LEAF)
            }
            1 => {
                let [brand, flush, _, apic_id] = leaf.ebx.to_le_bytes();
                leaf.ebx = u32::from_le_bytes([brand, flush, counted, apic_id]);
                set(&mut leaf.edx, EDX_HTT, threads > 1);
            }
            4 => share_cache(&mut leaf.eax, topology, CacheLeaf::WithCores),
            0x8000_0001 if amd => {
                set(&mut leaf.ecx, ECX_CMP_LEGACY, threads > 1);
            }
            0x8000_0008 if amd => {
                leaf.ecx = leaf.ecx & !0xf0ff | (threads - 1).min(0xff) | topology.package_shift() << 12;
            }
            0x8000_001d => share_cache(&mut leaf.eax, topology, CacheLeaf::CacheOnly),
            _ => {}
        }
    }
    replace_levels(leaves, topology);
}

/// What tells vCPU `index` from the others.
pub(super) fn for_vcpu(leaves: &mut [kvm_cpuid_entry2], topology: &Topology, index: u8) {
    let apic_id = topology.apic_id(index);
    let topology_extensions =
        leaves.iter().any(|leaf| leaf.function == 0x8000_0001 && leaf.ecx & ECX_TOPOLOGY_EXTENSIONS != 0);
    for leaf in leaves.iter_mut() {
        match leaf.function {
            1 => {
                let [brand, flush, count, _] = leaf.ebx.to_le_bytes();
                leaf.ebx = u32::from_le_bytes([brand, flush, count, apic_id]);
            }
            0xb | DIE_LEAF => leaf.edx = u32::from(apic_id),
            0x8000_001e if topology_extensions => {
                let place = topology.place(index);
                let (cores, dies) = (topology.cores_per_die(), topology.dies_per_package());
                leaf.eax = u32::from(apic_id);
                // Cores are numbered within their package, nodes through all packages; each die is a node.
                leaf.ebx = (topology.threads_per_core() - 1) << 8 | (place.die * cores + place.core) & 0xff;
                leaf.ecx = (dies - 1).min(7) << 8 | (place.package * dies + place.die) & 0xff;
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

/// Whether bits 31–26 of EAX hold the package's cores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CacheLeaf {
    WithCores,
    CacheOnly,
}

/// Says by how many ids a cache, and by how many cores the package, is shared; both are counted in ids.
fn share_cache(eax: &mut u32, topology: &Topology, kind: CacheLeaf) {
    const SHARING: u32 = 0xfff << 14;
    const CORES: u32 = 0x3f << 26;
    if *eax & 0x1f == 0 {
        return;
    }
    let level = *eax >> 5 & 0x7;
    let shift = if level >= 3 { topology.die_shift() } else { topology.core_shift() };
    // A shift is at most 8, and so what is shared at most 255.
    *eax = *eax & !SHARING | ((1 << shift) - 1) << 14;
    if kind == CacheLeaf::WithCores {
        let cores: u32 = 1 << (topology.package_shift() - topology.core_shift());
        *eax = *eax & !CORES | (cores - 1).min(0x3f) << 26;
    }
}

/// Rewrites leaves 0xB and 0x1F where the CPU's highest leaf reaches them: threads, cores, dies where there are
/// several, then no more. Leaf 0xB knows no dies: its cores are the package's.
fn replace_levels(leaves: &mut Vec<kvm_cpuid_entry2>, topology: &Topology) {
    let highest = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    leaves.retain(|leaf| !matches!(leaf.function, 0xb | DIE_LEAF));
    let threads = (topology.core_shift(), topology.threads_per_core(), LEVEL_THREAD);
    let package = |kind| (topology.package_shift(), topology.threads_per_package(), kind);
    let several_dies = topology.dies_per_package() > 1;
    for function in [0xb, DIE_LEAF] {
        if highest < function {
            continue;
        }
        let mut levels = vec![threads];
        if function == DIE_LEAF && several_dies {
            levels.push((topology.die_shift(), topology.threads_per_die(), LEVEL_CORE));
            levels.push(package(LEVEL_DIE));
        } else {
            levels.push(package(LEVEL_CORE));
        }
        levels.push((0, 0, 0));
        for (index, (eax, ebx, kind)) in (0..).zip(levels) {
            leaves.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: SIGNIFICANT_INDEX,
                eax,
                ebx,
                ecx: kind | index,
                ..Default::default()
            });
        }
    }
}

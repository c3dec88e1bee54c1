//! Leaves of made-up hosts.

use proptest::prelude::*;

use vm_model::{CpuSpec, CpuTopology};

use super::*;
use crate::topology::tests::any_cpus;

fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

fn vendor(name: &[u8; 12], highest: u32) -> kvm_cpuid_entry2 {
    let word = |start: usize| u32::from_le_bytes(name[start..start + 4].try_into().unwrap());
    leaf(0, 0, [highest, word(0), word(8), word(4)])
}

fn host(name: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
    vec![
        vendor(name, 0x1f),
        leaf(1, 0, [0, 0xff00_0800, u32::MAX, u32::MAX]),
        leaf(4, 0, [0xffff_c121, 0, 0, 0]),
        leaf(4, 3, [0xffff_c163, 0, 0, 0]),
        leaf(4, 4, [0; 4]),
        leaf(7, 0, [0, u32::MAX, u32::MAX, 0]),
        leaf(0xa, 0, [7; 4]),
        leaf(0xb, 0, [9; 4]),
        leaf(0x4000_0000, 0, [0x4000_0001, 1, 2, 3]),
        leaf(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
        leaf(0x8000_0008, 0, [0x0030_392e, 0, 0xffff_ffff, 0]),
        leaf(0x8000_000a, 0, [1; 4]),
        leaf(0x8000_001e, 0, [5; 4]),
    ]
}

fn flat(vcpus: u8) -> Topology {
    Topology::of(&CpuSpec::of(vcpus)).unwrap()
}

fn shape(vcpus: u8) -> CpuidShape {
    CpuidShape { topology: flat(vcpus), tsc_deadline: true, max_phys_bits: None }
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> &kvm_cpuid_entry2 {
    leaves.iter().find(|leaf| leaf.function == function && leaf.index == index).expect("the leaf is there")
}

#[test]
fn nothing_is_offered_that_the_machine_does_not_stand_behind() {
    for name in [b"AuthenticAMD", b"GenuineIntel"] {
        let leaves = for_vcpu(&for_machine(&host(name), &shape(2)), &flat(2), 0);
        let features = find(&leaves, 1, 0).ecx;
        assert_eq!(features & (1 << 3 | 1 << 5 | 1 << 15 | 1 << 27), 0);
        assert_eq!(features & (1 << 31 | 1 << 24), 1 << 31 | 1 << 24);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
        for function in [0xa, 0x8000_000a] {
            let leaf = find(&leaves, function, 0);
            assert_eq!([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx], [0; 4]);
        }
        assert_eq!(find(&leaves, 0x4000_0000, 0).eax, 0x4000_0001, "KVM's leaves stay");
    }
}

#[test]
fn tiles_go_with_their_state() {
    for (state, kept) in [(0b111, 0), (1 << 17, 0), (3 << 17, u32::MAX)] {
        let mut host = host(b"GenuineIntel");
        host.retain(|leaf| leaf.function != 7);
        host.push(leaf(7, 0, [1, 0, 0, 1 << 22 | 1 << 24 | 1 << 25 | 1 << 26]));
        host.push(leaf(7, 1, [1 << 21 | 1 << 4, 0, 0, 1 << 8]));
        host.push(leaf(0xd, 0, [state, 0, 0, 0]));
        host.push(leaf(0xd, 1, [3 << 17, 0, 0, 0]));
        host.push(leaf(0x1d, 1, [7; 4]));
        let leaves = for_machine(&host, &shape(1));
        assert_eq!(find(&leaves, 7, 0).edx, 1 << 26 | kept & (1 << 22 | 1 << 24 | 1 << 25));
        assert_eq!(
            (find(&leaves, 7, 1).eax, find(&leaves, 7, 1).edx),
            (1 << 4 | kept & 1 << 21, kept & 1 << 8)
        );
        assert_eq!(find(&leaves, 0x1d, 1).eax, kept & 7);
    }
}

#[test]
fn bits_that_the_host_lacks_are_not_invented() {
    let mut host = host(b"GenuineIntel");
    host[1].ecx = 0;
    let shape = CpuidShape { tsc_deadline: false, ..shape(1) };
    let leaves = for_machine(&host, &shape);
    assert_eq!(find(&leaves, 1, 0).ecx, 1 << 31);
    assert_eq!(find(&leaves, 1, 0).edx & 1 << 28, 0, "one vCPU is no multi-processor");
}

#[test]
fn physical_address_bits_are_clamped_and_never_raised() {
    let host = host(b"GenuineIntel");
    let bits = |max_phys_bits| phys_bits(&for_machine(&host, &CpuidShape { max_phys_bits, ..shape(1) }));
    assert_eq!(bits(None), 46);
    assert_eq!(bits(Some(40)), 40);
    assert_eq!(bits(Some(52)), 46);
    assert_eq!(phys_bits(&[]), 36);
}

#[test]
fn three_vcpus_are_three_cores_of_one_package() {
    let machine = for_machine(&host(b"AuthenticAMD"), &shape(3));
    let leaves = for_vcpu(&machine, &flat(3), 2);
    assert_eq!(find(&leaves, 1, 0).ebx, 0x0203_0800);
    assert_eq!(find(&leaves, 4, 0).eax >> 14 & 0xfff, 0, "a first-level cache is a core's own");
    assert_eq!(find(&leaves, 4, 3).eax >> 14 & 0xfff, 3, "the last level is shared by four ids");
    assert_eq!(find(&leaves, 4, 3).eax >> 26, 3);
    assert_eq!(find(&leaves, 4, 4).eax, 0, "the end of the list stays the end");
    assert_eq!(find(&leaves, 0x8000_0008, 0).ecx & 0xf0ff, 0x2002);
    for function in [0xb, 0x1f] {
        let levels: Vec<_> = (0..3)
            .map(|index| {
                let leaf = find(&leaves, function, index);
                (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)
            })
            .collect();
        assert_eq!(levels, [(0, 1, 0x100, 2), (2, 3, 0x201, 2), (0, 0, 2, 2)]);
    }
    let node = find(&leaves, 0x8000_001e, 0);
    assert_eq!([node.eax, node.ebx, node.ecx], [2, 2, 0]);
}

fn machine(name: &[u8; 12], cpus: &CpuSpec) -> (Topology, Vec<kvm_cpuid_entry2>) {
    let topology = Topology::of(cpus).unwrap();
    (topology, for_machine(&host(name), &CpuidShape { topology, tsc_deadline: true, max_phys_bits: None }))
}

fn levels(leaves: &[kvm_cpuid_entry2], function: u32) -> Vec<(u32, u32, u32)> {
    let of_function = leaves.iter().filter(|leaf| leaf.function == function);
    of_function.map(|leaf| (leaf.eax, leaf.ebx, leaf.ecx)).collect()
}

/// Two packages of two dies of three cores of two threads.
fn deep() -> CpuSpec {
    let topology = CpuTopology { threads_per_core: 2, cores_per_die: 3, dies_per_package: 2, packages: 2 };
    CpuSpec { topology: Some(topology), ..CpuSpec::of(24) }
}

#[test]
fn intel_tells_every_level_apart() {
    let (topology, machine) = machine(b"GenuineIntel", &deep());
    // Thread 1 of core 2 of die 1 of package 1.
    let leaves = for_vcpu(&machine, &topology, 23);
    let id = 1 << 4 | 1 << 3 | 2 << 1 | 1;
    assert_eq!(find(&leaves, 1, 0).ebx, id << 24 | 16 << 16 | 0x0800, "16 ids a package");
    assert_eq!(find(&leaves, 4, 0).eax >> 14, 7 << 12 | 1, "8 core ids a package, 2 ids a core");
    assert_eq!(find(&leaves, 4, 3).eax >> 14, 7 << 12 | 7, "8 ids a die");
    assert_eq!(levels(&leaves, 0xb), [(1, 2, 0x100), (4, 12, 0x201), (0, 0, 2)]);
    assert_eq!(levels(&leaves, 0x1f), [(1, 2, 0x100), (3, 6, 0x201), (4, 12, 0x502), (0, 0, 3)]);
    assert_eq!(find(&leaves, 0x1f, 2).edx, id);
}

#[test]
fn amd_tells_dies_apart_by_nodes() {
    let (topology, machine) = machine(b"AuthenticAMD", &deep());
    let leaves = for_vcpu(&machine, &topology, 23);
    assert_eq!(find(&leaves, 1, 0).ebx >> 16 & 0xff, 12, "12 threads a package");
    assert_eq!(find(&leaves, 0x8000_0008, 0).ecx & 0xf0ff, 0x400b, "12 threads, 4 bits of id");
    let node = find(&leaves, 0x8000_001e, 0);
    assert_eq!(node.eax, 1 << 4 | 1 << 3 | 2 << 1 | 1);
    assert_eq!(node.ebx, 1 << 8 | 5, "two threads in core 5 of the package");
    assert_eq!(node.ecx, 1 << 8 | 3, "two nodes a package, of which this is the last");
}

#[test]
fn the_leaf_of_dies_is_there_where_there_are_dies() {
    let hosted = |cpus: &CpuSpec, highest| {
        let topology = Topology::of(cpus).unwrap();
        let shape = CpuidShape { topology, tsc_deadline: true, max_phys_bits: None };
        for_machine(&[vendor(b"GenuineIntel", highest)], &shape)
    };
    assert_eq!(find(&hosted(&deep(), 0x16), 0, 0).eax, 0x1f);
    assert_eq!(levels(&hosted(&deep(), 0x16), 0x1f).len(), 4);
    assert_eq!(find(&hosted(&CpuSpec::of(4), 0x16), 0, 0).eax, 0x16);
    assert_eq!(find(&hosted(&deep(), 7), 0, 0).eax, 7, "a CPU without levels gets none");
}

#[test]
fn a_cpu_without_topology_leaves_gets_none() {
    let leaves = for_machine(&[vendor(b"GenuineIntel", 7)], &shape(4));
    assert_eq!(leaves.len(), 1);
}

proptest! {
    #[test]
    fn every_vcpu_has_its_own_id_below_the_package_size(vcpus in 1_u8..=254) {
        let machine = for_machine(&host(b"GenuineIntel"), &shape(vcpus));
        let shift = find(&machine, 0xb, 1).eax;
        for index in 0..vcpus {
            let leaves = for_vcpu(&machine, &flat(vcpus), index);
            prop_assert_eq!(find(&leaves, 1, 0).ebx.to_le_bytes()[3], index);
            prop_assert_eq!(find(&leaves, 0xb, 0).edx, u32::from(index));
            prop_assert_eq!(u32::from(index) >> shift, 0, "all ids are in one package");
        }
    }

    /// What a guest concludes from the leaves is where the vCPU sits.
    #[test]
    fn leaves_and_places_agree(cpus in any_cpus()) {
        for name in [b"GenuineIntel", b"AuthenticAMD"] {
            let (topology, machine) = machine(name, &cpus);
            let [core_shift, die_shift, last] = [0, 1, 2].map(|index| find(&machine, 0x1f, index).eax);
            let package_shift = if last == 0 { die_shift } else { last };
            prop_assert_eq!(find(&machine, 0xb, 1).eax, package_shift);
            for index in 0..cpus.boot_vcpus {
                let leaves = for_vcpu(&machine, &topology, index);
                let (id, place) = (find(&leaves, 0xb, 0).edx, topology.place(index));
                prop_assert_eq!(find(&leaves, 1, 0).ebx >> 24, id);
                prop_assert_eq!(id >> package_shift, place.package);
                prop_assert_eq!(id & ((1 << core_shift) - 1), place.thread);
                prop_assert_eq!(id >> die_shift, place.package << (package_shift - die_shift) | place.die);
                let node = find(&leaves, 0x8000_001e, 0);
                prop_assert_eq!(node.eax, id);
                prop_assert_eq!(node.ebx >> 8 & 0xff, topology.threads_per_core() - 1);
                prop_assert_eq!(node.ecx & 0xff, place.package * topology.dies_per_package() + place.die);
            }
        }
    }

    #[test]
    fn no_host_makes_it_panic(functions in proptest::collection::vec((any::<u32>(), 0_u32..4, any::<[u32; 4]>()), 0..40),
                              cpus in any_cpus(), most in proptest::option::of(any::<u8>())) {
        let host: Vec<_> = functions.into_iter().map(|(f, i, r)| leaf(f, i, r)).collect();
        let topology = Topology::of(&cpus).unwrap();
        let machine = for_machine(&host, &CpuidShape { topology, tsc_deadline: true, max_phys_bits: most });
        for_vcpu(&machine, &topology, cpus.boot_vcpus - 1);
    }
}

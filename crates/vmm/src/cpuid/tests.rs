//! Leaves of made-up hosts.

use proptest::prelude::*;

use super::*;

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

fn shape(vcpus: u8) -> CpuidShape {
    CpuidShape { vcpus, tsc_deadline: true, max_phys_bits: None }
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> &kvm_cpuid_entry2 {
    leaves.iter().find(|leaf| leaf.function == function && leaf.index == index).expect("the leaf is there")
}

#[test]
fn nothing_is_offered_that_the_machine_does_not_stand_behind() {
    for name in [b"AuthenticAMD", b"GenuineIntel"] {
        let leaves = for_vcpu(&for_machine(&host(name), &shape(2)), 0);
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
    let leaves = for_vcpu(&machine, 2);
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
            let leaves = for_vcpu(&machine, index);
            prop_assert_eq!(find(&leaves, 1, 0).ebx.to_le_bytes()[3], index);
            prop_assert_eq!(find(&leaves, 0xb, 0).edx, u32::from(index));
            prop_assert_eq!(u32::from(index) >> shift, 0, "all ids are in one package");
        }
    }

    #[test]
    fn no_host_makes_it_panic(functions in proptest::collection::vec((any::<u32>(), 0_u32..4, any::<[u32; 4]>()), 0..40),
                              vcpus in 1_u8..=255, most in proptest::option::of(any::<u8>())) {
        let host: Vec<_> = functions.into_iter().map(|(f, i, r)| leaf(f, i, r)).collect();
        let shape = CpuidShape { vcpus, tsc_deadline: true, max_phys_bits: most };
        let machine = for_machine(&host, &shape);
        for_vcpu(&machine, vcpus - 1);
    }
}

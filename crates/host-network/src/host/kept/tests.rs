//! What becomes of each interface that was kept, by the link that has its TAP's name.

use proptest::prelude::*;

use super::*;

fn config() -> NetworkConfig {
    NetworkConfig::new(LinkName::parse("br-test").unwrap(), "10.100.0.0/16".parse().unwrap())
}

fn kept(number: u8) -> KeptNic {
    KeptNic {
        vm: VmId::new(&format!("vm-{number}")),
        nic: "net0".to_owned(),
        mac: MacAddress::new([2, 0x50, 10, 100, 1, number]),
        address: Ipv4Addr::new(10, 100, 1, number),
        mask: None,
        mtu: None,
        tap: LinkName::parse(&format!("pw-{number}")).unwrap(),
        access: NetworkAccess::default(),
    }
}

/// The TAP of interface `number`, as an earlier run left it.
fn tap(number: u8) -> Link {
    Link {
        index: u32::from(number),
        name: format!("pw-{number}"),
        kind: Some("tun".to_owned()),
        alias: Some(format!("procurator:vm-{number}/net0")),
        mac: None,
        controller: Some(1),
        parent: None,
        vlan: None,
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        is_loopback: false,
        bridge: None,
        port: None,
    }
}

/// The problems that are told; every warning of a plan is one.
fn problems(plan: &KeptNics) -> Vec<KeptNicProblem> {
    let problem = |warning: &StartWarning| match warning {
        StartWarning::KeptNic { problem, .. } => problem.clone(),
        StartWarning::ForwardDrop { .. }
        | StartWarning::NoNames(_)
        | StartWarning::ConnectionsNotCounted
        | StartWarning::NoNameServer
        | StartWarning::Bridge(_) => {
            panic!("not of an interface: {warning}")
        }
    };
    plan.warnings.iter().map(problem).collect()
}

#[test]
fn what_is_there_is_attached_and_answered_and_what_is_gone_is_told() {
    let plan = plan_kept(&config(), &[tap(2)], vec![kept(2), kept(3)]);
    assert_eq!(plan.attached.len(), 1);
    assert_eq!(plan.bindings.get(kept(2).mac).map(|binding| binding.address), Some(kept(2).address));
    assert_eq!(plan.bindings.get(kept(3).mac), None);
    let [warning] = &plan.warnings[..] else { panic!("one warning, not {:?}", plan.warnings) };
    assert_eq!(
        warning.to_string(),
        "the TAP pw-3 of vm-3/net0 is gone: the VM has no network there until it starts again"
    );
}

#[test]
fn a_link_that_only_has_the_name_is_left_alone() {
    let others = [
        Link { alias: None, ..tap(2) },
        Link { alias: Some("procurator:vm-9/net0".to_owned()), ..tap(2) },
        Link { kind: Some("veth".to_owned()), ..tap(2) },
        Link { kind: None, ..tap(2) },
    ];
    for other in others {
        let plan = plan_kept(&config(), std::slice::from_ref(&other), vec![kept(2)]);
        assert!(plan.attached.is_empty() && plan.bindings.get(kept(2).mac).is_none(), "{other:?}");
        let replaced = KeptNicProblem::Replaced { kind: other.kind, alias: other.alias };
        assert_eq!(problems(&plan), [replaced]);
    }
}

#[test]
fn an_interface_that_dhcp_cannot_serve_is_attached_all_the_same() {
    let outside = KeptNic { address: Ipv4Addr::new(192, 0, 2, 1), ..kept(3) };
    let same_mac = KeptNic { mac: kept(2).mac, ..kept(4) };
    let large = KeptNic { mtu: Some(9000), ..kept(5) };
    let links = [tap(2), tap(3), tap(4), tap(5)];
    let plan = plan_kept(&config(), &links, vec![kept(2), outside, same_mac, large]);
    assert_eq!(plan.attached.len(), 4);
    assert_eq!(plan.attached.values().filter(|attached| attached.bound.is_some()).count(), 1);
    let told: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    for (warning, part) in told.iter().zip([
        "the TAP pw-3 of vm-3/net0 is attached, but the guest cannot renew its address: the address 192.0.2.1",
        "02:50:0a:64:01:02 belongs to vm-2/net0",
        "MTU of 9000",
    ]) {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    let mtus: Vec<u16> =
        plan.attached.values().filter_map(|attached| attached.tap.as_ref()).map(|tap| tap.mtu).collect();
    assert_eq!(mtus, [1500; 4], "none is above the bridge's");
}

#[test]
fn an_interface_that_is_named_twice_counts_once() {
    let plan = plan_kept(&config(), &[tap(2)], vec![kept(2), kept(2)]);
    assert_eq!(plan.attached.len(), 1);
    assert_eq!(problems(&plan), [KeptNicProblem::Repeated { first: kept(2).tap }]);
}

proptest! {
    /// Each is either attached or told of as lost, and DHCP answers none that is not attached.
    #[test]
    fn none_is_forgotten(
        named in proptest::collection::vec((2_u8..8, any::<bool>()), 0..12),
        there in proptest::collection::btree_set(2_u8..8, 0..6),
    ) {
        let links: Vec<Link> = there.iter().map(|number| tap(*number)).collect();
        let nics = named.iter().map(|(number, is_inside)| {
            let address = if *is_inside { kept(*number).address } else { Ipv4Addr::LOCALHOST };
            KeptNic { address, ..kept(*number) }
        });
        let plan = plan_kept(&config(), &links, nics.collect());
        let unserved = |problem: &&KeptNicProblem| matches!(problem, KeptNicProblem::NoDhcp(_));
        let told = problems(&plan);
        let lost = told.len() - told.iter().filter(unserved).count();
        prop_assert_eq!(plan.attached.len() + lost, named.len());
        for attached in plan.attached.values() {
            let index = attached.tap.as_ref().map(|tap| tap.index).unwrap();
            prop_assert!(there.contains(&u8::try_from(index).unwrap()));
        }
        for number in 2..8 {
            let is_bound = plan.bindings.get(kept(number).mac).is_some();
            prop_assert!(!is_bound || there.contains(&number));
        }
    }
}

//! The plan for each thing that can be seen under the bridge's name, and who is found to use the subnet.

use proptest::prelude::*;

use super::*;
use crate::LinkName;
use crate::netlink::BridgeSettings;

fn config() -> NetworkConfig {
    NetworkConfig::new(LinkName::parse("br-test").unwrap(), "10.100.0.0/16".parse().unwrap())
}

fn host() -> Ipv4Network {
    config().host_address().unwrap()
}

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        alias: None,
        mac: None,
        controller: None,
        parent: None,
        vlan: None,
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        is_loopback: false,
        bridge: (kind == Some("bridge")).then_some(OURS),
        port: None,
    }
}

/// What our own bridge is set to.
const OURS: BridgeSettings = BridgeSettings {
    spanning_tree: false,
    forward_delay: 0,
    ageing_time: 30_000,
    filters_vlans: false,
    default_vlan: 1,
    group_forward_mask: 0,
    multicast_snooping: false,
};

/// The plan for another's bridge with these settings.
fn adoption(settings: BridgeSettings) -> Result<BridgePlan, NetworkError> {
    let bridge = Link { bridge: Some(settings), ..link(7, "br-test", Some("bridge")) };
    let observed =
        Observed { links: vec![bridge], addresses: vec![address(7, "10.100.0.1/16")], ..Observed::default() };
    plan_bridge(&config(), &observed)
}

fn address(link: u32, text: &str) -> Ipv4Assignment {
    Ipv4Assignment { link, address: text.parse().unwrap() }
}

fn route(link: u32, text: &str) -> Ipv4Route {
    Ipv4Route { destination: text.parse().unwrap(), links: vec![link] }
}

fn uses(observed: &Observed) -> Vec<String> {
    let plan = plan_bridge(&config(), observed).unwrap();
    plan.uses.iter().map(ToString::to_string).collect()
}

fn refusal(observed: &Observed) -> String {
    plan_bridge(&config(), observed).unwrap_err().to_string()
}

#[test]
fn a_missing_bridge_is_created() {
    let plan = plan_bridge(&config(), &Observed::default()).unwrap();
    assert_eq!(plan.origin, BridgeOrigin::Created);
    assert_eq!(
        plan.actions,
        [BridgeAction::Create, BridgeAction::Configure, BridgeAction::AddAddress(host())]
    );
}

#[test]
fn a_bridge_that_a_killed_run_left_half_made_is_ours() {
    let mut bridge = link(7, "br-test", Some("bridge"));
    bridge.is_up = false;
    bridge.mac = Some(bridge_mac(&LinkName::parse("br-test").unwrap()));
    let mut observed = Observed { links: vec![bridge], ..Observed::default() };
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!(plan.origin, BridgeOrigin::Ours);
    assert_eq!(plan.actions, [BridgeAction::Configure, BridgeAction::AddAddress(host())]);
    // Somebody uses it.
    observed.addresses.push(address(7, "192.0.2.1/24"));
    assert_ne!(plan_bridge(&config(), &observed).unwrap().origin, BridgeOrigin::Ours);
}

#[test]
fn our_own_bridge_as_it_should_be_needs_nothing() {
    let mut bridge = link(7, "br-test", Some("bridge"));
    bridge.alias = Some(BRIDGE_ALIAS.to_owned());
    let mut observed = Observed {
        links: vec![bridge],
        addresses: vec![address(7, "10.100.0.1/16")],
        routes: vec![route(7, "10.100.0.0/16")],
        ..Observed::default()
    };
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!((plan.origin, plan.actions), (BridgeOrigin::Ours, vec![]));

    observed.links[0].mtu = 9000;
    observed.addresses.clear();
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!(plan.actions, [BridgeAction::Configure, BridgeAction::AddAddress(host())]);
}

#[test]
fn our_bridge_under_another_name_is_renamed() {
    let mut bridge = link(7, "br-foo", Some("bridge"));
    bridge.alias = Some(BRIDGE_ALIAS.to_owned());
    let mut observed =
        Observed { links: vec![bridge], addresses: vec![address(7, "10.100.0.1/16")], ..Observed::default() };
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!(plan.origin, BridgeOrigin::Created, "it is another worker's");
    observed.links[0].mac = Some(bridge_mac(&config().bridge));
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!(
        (plan.origin, plan.actions, plan.uses),
        (BridgeOrigin::Ours, vec![BridgeAction::Rename], vec![])
    );
}

#[test]
fn anothers_bridge_is_adopted_as_it_is() {
    let mut bridge = link(7, "br-test", Some("bridge"));
    bridge.mtu = 9000;
    bridge.is_up = false;
    let observed = Observed { links: vec![bridge], ..Observed::default() };
    let plan = plan_bridge(&config(), &observed).unwrap();
    assert_eq!(plan.origin, BridgeOrigin::Adopted);
    assert_eq!(plan.actions, [BridgeAction::BringUp, BridgeAction::AddAddress(host())]);
    assert_eq!(plan.adopted.unwrap().addresses, [host().into()]);
}

#[test]
fn our_own_bridge_is_kept_as_it_was_created() {
    let mut bridge = link(7, "br-test", Some("bridge"));
    bridge.alias = Some(BRIDGE_ALIAS.to_owned());
    bridge.bridge = Some(BridgeSettings {
        spanning_tree: true,
        forward_delay: 1500,
        ageing_time: 0,
        filters_vlans: true,
        group_forward_mask: 8,
        multicast_snooping: true,
        ..OURS
    });
    let observed =
        Observed { links: vec![bridge], addresses: vec![address(7, "10.100.0.1/16")], ..Observed::default() };
    let plan = plan_bridge(&config(), &observed).unwrap();
    let expected = [
        BridgeSetting::NoSpanningTree,
        BridgeSetting::ForwardDelay(0),
        BridgeSetting::AgeingTime(30_000),
        BridgeSetting::NoVlanFiltering,
        BridgeSetting::GroupForwardMask(0),
        BridgeSetting::NoMulticastSnooping,
    ];
    assert_eq!(plan.actions, expected.map(BridgeAction::Change));
    assert_eq!(plan.notes, []);
}

#[test]
fn what_an_adopted_bridge_brings_along_is_told() {
    let stp = BridgeSettings { spanning_tree: true, forward_delay: 1500, group_forward_mask: 8, ..OURS };
    let plan = adoption(stp).unwrap();
    assert_eq!(plan.actions, []);
    assert_eq!(
        plan.notes,
        [BridgeNote::SpanningTree { seconds: 30 }, BridgeNote::GroupForwardMask { mask: 8 }]
    );

    let mut observed = Observed {
        links: vec![link(7, "br-test", Some("bridge")), link(8, "eth1", None), link(9, "pw-x", Some("tun"))],
        ipv6: vec![Ipv6Assignment { link: 7, address: "2001:db8::1/64".parse().unwrap(), is_global: true }],
        ..Observed::default()
    };
    observed.links[0].mtu = 1400;
    observed.links[1].controller = Some(7);
    observed.links[2].controller = Some(7);
    observed.links[2].alias = Some("procurator:web-1/net0".to_owned());
    let plan = plan_bridge(&config(), &observed).unwrap();
    let ports = vec!["eth1".to_owned()];
    assert_eq!(
        plan.notes,
        [BridgeNote::Mtu { mtu: 1400 }, BridgeNote::OtherPorts { ports }, BridgeNote::Ipv6]
    );
    let with_ipv6 = NetworkConfig { ipv6: Some("fd12::/64".parse().unwrap()), ..config() };
    let refusal = plan_bridge(&with_ipv6, &observed).unwrap_err();
    assert!(refusal.to_string().contains("is a bridge with the IPv6 address 2001:db8::1/64"), "{refusal}");
    observed.ipv6[0].address = "fd12::1/64".parse().unwrap();
    assert!(!plan_bridge(&with_ipv6, &observed).unwrap().keeps_ipv6, "that one is ours");
    assert_eq!((plan.mtu, plan.keeps_ipv6), (1400, true));
}

#[test]
fn a_hub_is_made_a_bridge_and_given_back_as_it_was() {
    let plan = adoption(BridgeSettings { ageing_time: 0, ..OURS }).unwrap();
    assert_eq!(plan.actions, [BridgeAction::Change(BridgeSetting::AgeingTime(30_000))]);
    let adopted = plan.adopted.unwrap();
    assert_eq!((adopted.index, adopted.ageing_time, adopted.addresses), (7, Some(0), vec![]));
    assert_eq!(plan.notes, [BridgeNote::AgeingTime]);
}

#[test]
fn a_bridge_that_drops_what_vms_send_is_refused() {
    let error = adoption(BridgeSettings { filters_vlans: true, default_vlan: 0, ..OURS }).unwrap_err();
    assert!(error.to_string().starts_with("the link br-test is a bridge that filters VLANs"), "{error}");
    assert!(adoption(BridgeSettings { filters_vlans: true, ..OURS }).is_ok(), "ports are put into VLAN 1");
    let mut bridge = link(7, "br-test", Some("bridge"));
    bridge.mtu = 500;
    let error = refusal(&Observed { links: vec![bridge], ..Observed::default() });
    assert!(error.starts_with("the link br-test is a bridge with an MTU of 500: raise it"), "{error}");
}

#[test]
fn a_link_that_is_no_bridge_is_refused_by_kind() {
    for (kind, word) in [(Some("dummy"), "dummy"), (None, "physical")] {
        let observed = Observed { links: vec![link(7, "br-test", kind)], ..Observed::default() };
        assert_eq!(
            refusal(&observed),
            format!(
                "the link br-test is no bridge but a {word} link: remove it or configure another bridge name"
            )
        );
    }
}

#[test]
fn who_uses_the_subnet_is_named_and_less_specific_routes_do_not() {
    let mut observed = Observed {
        links: vec![link(2, "eth0", None)],
        addresses: vec![address(2, "10.100.7.9/24")],
        routes: vec![route(2, "10.100.7.0/24")],
        ..Observed::default()
    };
    assert_eq!(uses(&observed), ["link eth0 has the address 10.100.7.9/24"]);
    observed.addresses.clear();
    observed.routes =
        ["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.101.0.0/16"].map(|to| route(2, to)).to_vec();
    assert_eq!(uses(&observed), [""; 0], "the bridge's own route is longer, or they are elsewhere");
    observed.routes = ["10.100.0.0/16", "10.100.3.0/24"].map(|to| route(2, to)).to_vec();
    assert_eq!(
        uses(&observed),
        ["a route to 10.100.0.0/16 leads through eth0", "a route to 10.100.3.0/24 leads through eth0"]
    );
}

#[test]
fn what_a_conflict_means_is_told_by_what_is_not_reached() {
    let subnet = config().network();
    let link = "eth0".to_owned();
    let wide = SubnetUse::Address { link: link.clone(), address: "10.1.2.3/8".parse().unwrap() };
    assert!(
        wide.meaning(subnet)
            .ends_with("machines behind eth0 with addresses of 10.100.0.0/16 are not reached from this host")
    );
    let narrow = SubnetUse::Address { link, address: "10.100.7.9/24".parse().unwrap() };
    assert!(narrow.meaning(subnet).contains("VMs with addresses of 10.100.7.0/24 may not be reached"));
}

proptest! {
    /// Whatever another link's address is, it is in the way exactly when the two networks share an address.
    #[test]
    fn overlap_is_found_both_ways(other: u32, prefix in 0_u8..=32) {
        let other = Ipv4Network::new(other.into(), prefix).unwrap();
        let observed = Observed {
            links: vec![link(2, "eth0", None)],
            addresses: vec![Ipv4Assignment { link: 2, address: other }],
            ..Observed::default()
        };
        let subnet = config().network();
        let shares = other.contains(subnet.network()) || subnet.contains(other.network());
        prop_assert_eq!(!plan_bridge(&config(), &observed).unwrap().uses.is_empty(), shares);
    }
}

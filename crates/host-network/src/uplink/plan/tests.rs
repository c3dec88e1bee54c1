//! Each thing that an uplink may be found to be, and the steps or the refusal for it.

use super::*;
use crate::netlink::{Ipv4Assignment, Ipv4Route};
use crate::uplink::VlanId;

const BRIDGE: u32 = 7;
const OURS: (Option<u32>, BridgeOrigin) = (Some(BRIDGE), BridgeOrigin::Ours);

fn bridge() -> LinkName {
    LinkName::parse("br-lan").unwrap()
}

fn uplink(vlan: Option<u16>) -> Uplink {
    Uplink { link: LinkName::parse("eth1").unwrap(), vlan: vlan.and_then(VlanId::new) }
}

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        alias: None,
        mac: Some("02:00:00:00:00:01".parse().unwrap()),
        controller: None,
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

fn eth1() -> Link {
    link(3, "eth1", None)
}

/// The VLAN 100 of `eth1` as this crate makes it.
fn vlan() -> Link {
    let alias = Some("procurator:uplink:br-lan".to_owned());
    Link { parent: Some(3), vlan: Some(100), alias, ..link(9, "eth1.100", Some("vlan")) }
}

fn seen(links: &[Link]) -> Observed {
    Observed { links: links.to_vec(), ..Observed::default() }
}

fn plan(vlan: Option<u16>, observed: &Observed) -> Result<UplinkPlan, UplinkProblem> {
    plan_uplink(&uplink(vlan), &bridge(), OURS, observed)
}

fn steps(vlan: Option<u16>, links: &[Link]) -> Vec<UplinkStep> {
    plan(vlan, &seen(links)).unwrap().steps
}

#[test]
fn what_is_missing_is_done_and_what_is_there_is_left_alone() {
    use UplinkStep::{BringParentUp, BringPortUp, Join, MakeVlan, MarkVlan};
    let joined = |link: Link| Link { controller: Some(BRIDGE), ..link };
    let down = |link: Link| Link { is_up: false, ..link };
    assert_eq!(steps(None, &[eth1()]), [Join]);
    assert_eq!(steps(None, &[down(eth1())]), [Join, BringPortUp]);
    assert_eq!(steps(None, &[joined(eth1())]), []);
    assert_eq!(steps(Some(100), &[down(eth1())]), [MakeVlan, BringParentUp, Join, BringPortUp]);
    let half_made = Link { alias: None, ..down(vlan()) };
    assert_eq!(steps(Some(100), &[eth1(), half_made]), [MarkVlan, Join, BringPortUp]);
    assert_eq!(steps(Some(100), &[eth1(), joined(vlan())]), []);
    assert_eq!(steps(Some(100), &[down(eth1()), joined(vlan())]), [BringParentUp]);
    assert_eq!(plan(None, &seen(&[joined(eth1())])).unwrap().before, None, "nothing is changed");
    let before = plan(None, &seen(&[down(eth1())])).unwrap().before;
    assert_eq!(before, Some(GivenUplink { index: 3, name: "eth1".to_owned(), was_up: false }));
    let unplugged = Link { has_carrier: false, ..vlan() };
    let carrier = |vlan, links: &[Link]| plan(vlan, &seen(links)).unwrap().has_carrier;
    assert!(
        carrier(None, &[eth1()])
            && !carrier(Some(100), &[eth1()])
            && !carrier(Some(100), &[eth1(), unplugged])
    );
}

#[test]
fn an_interface_that_this_host_needs_is_refused() {
    let refusal = |observed: &Observed| plan(None, observed).unwrap_err();
    let with_address = Observed {
        addresses: vec![Ipv4Assignment { link: 3, address: "192.0.2.7/24".parse().unwrap() }],
        ..seen(&[eth1()])
    };
    let address = "192.0.2.7/24".parse().unwrap();
    assert_eq!(refusal(&with_address), UplinkProblem::Address { address });
    assert!(plan(Some(100), &with_address).is_ok(), "its VLAN is another network");
    let routes = vec![Ipv4Route { destination: "0.0.0.0/0".parse().unwrap(), links: vec![3] }];
    let with_route = Observed { routes, ..seen(&[eth1()]) };
    assert_eq!(refusal(&with_route), UplinkProblem::Route { destination: "0.0.0.0/0".parse().unwrap() });
    let elsewhere = [Link { controller: Some(5), ..eth1() }, link(5, "bond0", Some("bond"))];
    let bonded = UplinkProblem::Controlled { controller: "bond0".to_owned() };
    assert_eq!(refusal(&seen(&elsewhere)), bonded);
    assert_eq!(plan(Some(100), &seen(&elsewhere)), Err(bonded));
    // A port of ours that somebody gave an address stays: it is cut off already.
    let joined = Observed { links: vec![Link { controller: Some(BRIDGE), ..eth1() }], ..with_address };
    assert_eq!(plan(None, &joined).unwrap().steps, []);
}

#[test]
fn what_cannot_be_a_port_is_refused() {
    assert_eq!(plan(None, &seen(&[])), Err(UplinkProblem::Missing));
    for (what, link) in [
        ("loopback", Link { is_loopback: true, ..eth1() }),
        ("a bridge", Link { kind: Some("bridge".to_owned()), ..eth1() }),
        ("a link of this worker", Link { alias: Some("procurator:web-1/net0".to_owned()), ..eth1() }),
        ("no Ethernet", Link { mac: None, ..eth1() }),
    ] {
        let refusal = plan(None, &seen(&[link])).unwrap_err().to_string();
        assert!(refusal.contains(what), "{what}: {refusal}");
    }
    let adopted = (Some(BRIDGE), BridgeOrigin::Adopted);
    let refusal = plan_uplink(&uplink(None), &bridge(), adopted, &seen(&[eth1()]));
    assert_eq!(refusal, Err(UplinkProblem::OthersBridge));
}

#[test]
fn the_link_of_a_vlan_that_others_made_is_not_taken() {
    let taken = |link: Link| plan(Some(100), &seen(&[eth1(), link]));
    let refused = |name: &str| Err(UplinkProblem::VlanTaken { link: name.to_owned() });
    assert_eq!(taken(Link { alias: None, ..vlan() }), refused("eth1.100"), "it is in use");
    assert_eq!(taken(Link { name: "storage".to_owned(), alias: None, ..vlan() }), refused("storage"));
    assert_eq!(taken(link(9, "eth1.100", Some("dummy"))), refused("eth1.100"));
    let of_another = Link { alias: Some("procurator:uplink:br-other".to_owned()), ..vlan() };
    assert_eq!(taken(of_another), refused("eth1.100"));
    assert!(taken(Link { vlan: Some(200), name: "eth1.200".to_owned(), ..vlan() }).is_ok());
}

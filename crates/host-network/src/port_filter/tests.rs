//! The table as `nft` reads it, and the elements of one port.

use super::elements::messages;
use super::*;
use crate::bound_port::Tables;
use crate::nfnetlink::element::Change;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);

fn wire(host_ipv6: HostIpv6) -> Wire {
    Wire {
        host_ipv6,
        gateway: GATEWAY,
        fragments: FragmentLimit::of(4 << 20, 30, 1500, 1),
        addresses: GuestAddresses::Ours,
        uplink: None,
        guards_claims: false,
        bridge: "06:50:00:00:00:01".parse().unwrap(),
    }
}

fn identities() -> Identities {
    let identity =
        PortIdentity { mac: "02:50:0a:64:00:02".parse().unwrap(), address: Ipv4Addr::new(10, 100, 0, 2) };
    Identities::from([(7, identity)])
}

#[test]
fn a_link_local_address_is_made_of_the_hardware_address() {
    let identity = identities()[&7];
    assert_eq!(identity.link_local().to_string(), "fe80::50:aff:fe64:2");
}

#[test]
fn each_port_stands_in_each_set() {
    let text = table_text("procurator", &identities(), wire(HostIpv6::Off));
    for element in [
        "set ports { type iface_index; elements = { 7 }; }",
        "elements = { 7 . 02:50:0a:64:00:02 }",
        "elements = { 7 . 10.100.0.2 }",
        "elements = { 7 . fe80::50:aff:fe64:2 }",
        "elements = { 7 . 0xfe8000000000000000500afffe640002 }",
    ] {
        assert!(text.contains(element), "no `{element}` in {text}");
    }
    let tables = |ipv6| Tables { name: "procurator", ipv6, guards_claims: false };
    let entered = messages(&tables(None), Change::Enter, 7, identities()[&7]);
    assert_eq!(entered.len(), 5, "an element a set");
    let entered = messages(&tables(Some(subnet())), Change::Enter, 7, identities()[&7]);
    assert_eq!(entered.len(), 7, "with IPv6, two in two of them");
}

fn subnet() -> Ipv6Subnet {
    "fd12:3456:789a::/64".parse().unwrap()
}

#[test]
fn with_ipv6_a_guest_has_a_second_address_and_a_name_server() {
    let text = table_text("procurator", &identities(), wire(HostIpv6::Served(subnet())));
    for part in [
        "elements = { 7 . fe80::50:aff:fe64:2, 7 . fd12:3456:789a:0:50:aff:fe64:2 }",
        "7 . 0xfd123456789a000000500afffe640002 }",
        "ip6 daddr fd12:3456:789a::1 udp dport 53 update @dns",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

#[test]
fn addresses_that_others_give_out_are_not_bound() {
    let kept = table_text("procurator", &Identities::new(), wire(HostIpv6::Kept));
    assert!(!kept.contains("@ipv6") && !kept.contains("@targets"), "{kept}");
    assert!(kept.contains("plays a router") && kept.contains("@macs"), "{kept}");
}

#[test]
fn where_others_give_addresses_a_guest_is_bound_to_its_mac_address_alone() {
    let external = Wire { addresses: GuestAddresses::External, uplink: Some(9), ..wire(HostIpv6::Off) };
    let text = table_text("procurator", &identities(), external);
    assert!(!text.contains("!= @ipv4") && !text.contains("@ipv6") && !text.contains("@targets"), "{text}");
    assert!(text.contains("!= @macs") && text.contains("plays a DHCP server"), "{text}");
    assert!(text.contains("iif 9 goto from_outside") && !text.contains("another's DHCP server"), "{text}");
    let ours = Wire { addresses: GuestAddresses::Ours, ..external };
    let text = table_text("procurator", &identities(), ours);
    assert!(text.contains("!= @ipv4") && text.contains("another's DHCP server"), "{text}");
    assert!(text.contains("oif 9 udp dport { 67, 547 } drop"), "{text}");
}

#[test]
fn nobody_outside_claims_an_address_of_a_guest_where_we_give_them() {
    let guarded = Wire { guards_claims: true, uplink: Some(9), ..wire(HostIpv6::Served(subnet())) };
    let text = table_text("procurator", &identities(), guarded);
    for part in [
        "set guest_ipv4 { type ipv4_addr; elements = { 10.100.0.2 }; }",
        "elements = { fd12:3456:789a:0:50:aff:fe64:2, fe80::50:aff:fe64:2 }; }",
        "set guest_targets { typeof @th,64,128; elements = { 0xfd12",
        "arp saddr ip @guest_ipv4 counter drop",
        "icmpv6 type nd-neighbor-advert @th,64,128 @guest_targets counter drop",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let absent = Wire { guards_claims: true, ..wire(HostIpv6::Off) };
    let text = table_text("procurator", &identities(), absent);
    assert!(text.contains("set guest_ipv4") && !text.contains("from_outside"), "before it is there: {text}");
}

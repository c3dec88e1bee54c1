//! The table as `nft` reads it, and the elements of one port.

use super::elements::messages;
use super::*;
use crate::nfnetlink::element::Change;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);

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
    let text = table_text("procurator", &identities(), HostIpv6::Off, GATEWAY);
    for element in [
        "set ports { type iface_index; elements = { 7 }; }",
        "elements = { 7 . 02:50:0a:64:00:02 }",
        "elements = { 7 . 10.100.0.2 }",
        "elements = { 7 . fe80::50:aff:fe64:2 }",
        "elements = { 7 . 0xfe8000000000000000500afffe640002 }",
    ] {
        assert!(text.contains(element), "no `{element}` in {text}");
    }
    let entered = messages("procurator", Change::Enter, 7, identities()[&7]);
    assert_eq!(entered.len(), 5, "an element a set");
}

#[test]
fn addresses_that_others_give_out_are_not_bound() {
    let kept = table_text("procurator", &Identities::new(), HostIpv6::Kept, GATEWAY);
    assert!(!kept.contains("@ipv6") && !kept.contains("@targets"), "{kept}");
    assert!(kept.contains("plays a router") && kept.contains("@macs"), "{kept}");
}

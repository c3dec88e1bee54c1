//! What may come in by the uplink, and what of guests does not leave by it.
//!
//! A frame from outside under a guest's hardware address would turn the bridge's entry for that guest to the uplink, though the
//! entry is static, so it is dropped before the bridge learns from it: such frames are forged, or come back by a loop elsewhere.
//! Frames of VLANs are dropped in both directions, so no guest gets into another VLAN by a tag of its own, nor gets one's frames.
//!
//! Where we give the addresses, others do not: DHCP and router advertisements pass by the uplink in neither direction, and our
//! servers hear nobody beyond it.

use super::{FORWARD_PRIORITY, GUEST_MACS, Wire};
use crate::GuestAddresses;

/// The chains for the port with the index `uplink`.
pub(super) fn chains(uplink: u32, wire: Wire) -> Vec<(&'static str, Vec<String>)> {
    let mut chains = vec![("from_outside", from_outside(wire))];
    match wire.addresses {
        GuestAddresses::Ours => chains.push(("to_outside", to_outside(uplink))),
        GuestAddresses::External => {}
    }
    chains
}

fn from_outside(wire: Wire) -> Vec<String> {
    let Wire { bridge, gateway, .. } = wire;
    let mut rules = vec![
        dropped(&format!("ether saddr @{GUEST_MACS}"), "a guest's MAC address from outside"),
        dropped(&format!("ether saddr {bridge}"), "the host's MAC address from outside"),
        dropped("ether type != { arp, ip, ip6 }", "from outside, neither IP nor ARP"),
    ];
    match wire.addresses {
        GuestAddresses::Ours => rules.extend([
            dropped(&format!("arp saddr ip {gateway}"), "the host's IPv4 address from outside"),
            dropped("ip protocol udp udp sport 67", "another's DHCP server"),
            dropped("ip protocol udp udp dport 67", "DHCP from outside"),
            dropped("ip6 nexthdr udp udp sport 547", "another's DHCPv6 server"),
            dropped("ip6 nexthdr udp udp dport 547", "DHCPv6 from outside"),
            dropped(
                "icmpv6 type { nd-router-advert, nd-router-solicit, nd-redirect }",
                "another's router, or a question for one",
            ),
        ]),
        GuestAddresses::External => {}
    }
    rules.push("accept".to_owned());
    rules
}

/// Questions of guests that our servers answer.
fn to_outside(uplink: u32) -> Vec<String> {
    let oif = format!("oif {uplink}");
    vec![
        format!("type filter hook forward priority {FORWARD_PRIORITY}; policy accept;"),
        format!("{oif} ip protocol udp udp dport 67 drop"),
        format!("{oif} ip6 nexthdr udp udp dport 547 drop"),
        format!("{oif} icmpv6 type nd-router-solicit drop"),
    ]
}

fn dropped(what: &str, why: &str) -> String {
    format!("{what} counter drop comment \"{why}\"")
}

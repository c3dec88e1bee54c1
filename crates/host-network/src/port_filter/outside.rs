//! What may come in by the uplink, and what does not leave by it.
//!
//! Where we give the addresses, nobody outside has one that a guest of this host has: what claims one is dropped.
//!
//! A frame from outside under a guest's hardware address would turn the bridge's entry for that guest to the uplink, though the
//! entry is static, so it is dropped before the bridge learns from it: such frames are forged, or come back by a loop elsewhere.
//! Frames of VLANs are dropped in both directions, so no guest gets into another VLAN by a tag of its own, nor gets one's frames.
//!
//! Where we give the addresses, others do not: DHCP and router advertisements pass by the uplink in neither direction. Our
//! servers hear nobody beyond it, and what they and the kernel say to guests stays on this host: frames of guests pass the hook
//! `forward` on their way out, the host's own pass the hook `output`.
//!
//! What is sent to the bridge's hardware address is for this host: it is no router for those beyond.

use super::{
    FORWARD_PRIORITY, GUEST_IPV4, GUEST_IPV6, GUEST_MACS, GUEST_TARGETS, Wire, dropped, link_groups, target,
};
use crate::GuestAddresses;
use crate::silence::HostIpv6;

/// Protocols of IP by which routers speak to each other: EIGRP, OSPF, PIM and VRRP (IANA, "Protocol Numbers").
const ROUTING_PROTOCOLS: &str = "{ 88, 89, 103, 112 }";
/// UDP ports of the same kind: RIP, `RIPng`, HSRP by IPv4 and IPv6, and GLBP.
const ROUTING_PORTS: &str = "{ 520, 521, 1985, 2029, 3222 }";

/// The chains for the port with the index `uplink`.
pub(super) fn chains(uplink: u32, wire: Wire) -> Vec<(&'static str, Vec<String>)> {
    let mut chains =
        vec![("from_outside", from_outside(wire)), ("to_outside", to_outside(uplink, wire.addresses))];
    match wire.addresses {
        GuestAddresses::Ours => chains.push(("host_to_outside", host_to_outside(uplink))),
        // The host has neither an address nor a server there.
        GuestAddresses::External => {}
    }
    chains
}

fn from_outside(wire: Wire) -> Vec<String> {
    let Wire { bridge, gateway, .. } = wire;
    let mut rules = vec![
        dropped(&format!("ether saddr @{GUEST_MACS}"), "a guest's MAC address from outside"),
        dropped(&format!("ether saddr {bridge}"), "the host's MAC address from outside"),
        dropped(&link_groups(), "from outside, for a group that no bridge passes on"),
        dropped("ether type != { arp, ip, ip6 }", "from outside, neither IP nor ARP"),
    ];
    match wire.addresses {
        GuestAddresses::Ours => {
            rules.extend([
                dropped(&format!("arp saddr ip {gateway}"), "the host's IPv4 address from outside"),
                dropped(&format!("ip saddr {gateway}"), "the host's IPv4 address from outside"),
                dropped(
                    &format!("ether daddr {bridge} ip daddr != {gateway}"),
                    "the host is no router for those outside",
                ),
                dropped("udp sport { 67, 547 }", "another's DHCP server"),
                dropped("udp dport { 67, 547 }", "DHCP from outside"),
                dropped(
                    "icmpv6 type { nd-router-advert, nd-router-solicit, nd-redirect }",
                    "another's router, or a question for one",
                ),
            ]);
            rules.extend(host_ipv6(wire));
            if wire.guards_claims {
                rules.extend(claims());
            }
        }
        GuestAddresses::External => {
            rules.push(dropped(
                &format!("ether daddr {bridge} ether type {{ ip, ip6 }}"),
                "the host has no address for those outside",
            ));
        }
    }
    rules.push("accept".to_owned());
    rules
}

/// Claims from outside to addresses that guests of this host have: neighbours would send there what is for the guest.
fn claims() -> [String; 4] {
    [
        dropped(&format!("arp saddr ip @{GUEST_IPV4}"), "a guest's IPv4 address from outside"),
        dropped(&format!("ip saddr @{GUEST_IPV4}"), "a guest's IPv4 address from outside"),
        dropped(&format!("ip6 saddr @{GUEST_IPV6}"), "a guest's IPv6 address from outside"),
        dropped(
            &format!("icmpv6 type nd-neighbor-advert @th,64,128 @{GUEST_TARGETS}"),
            "advertises a guest's IPv6 address from outside",
        ),
    ]
}

/// What comes from outside about and to the host's IPv6 addresses.
fn host_ipv6(wire: Wire) -> Vec<String> {
    let to_bridge = format!("ether daddr {}", wire.bridge);
    match wire.host_ipv6 {
        HostIpv6::Off => {
            vec![dropped(&format!("{to_bridge} ether type ip6"), "the host is no router for those outside")]
        }
        // Addresses that we do not know.
        HostIpv6::Kept => Vec::new(),
        HostIpv6::Served(subnet) => {
            let own = [subnet.gateway(), vm_model::link_local(wire.bridge)];
            let [addresses, targets] =
                [own.map(|it| it.to_string()), own.map(target)].map(|it| it.join(", "));
            vec![
                dropped(&format!("ip6 saddr {{ {addresses} }}"), "the host's IPv6 address from outside"),
                dropped(
                    &format!("icmpv6 type nd-neighbor-advert @th,64,128 {{ {targets} }}"),
                    "advertises the host's IPv6 address from outside",
                ),
                dropped(
                    &format!("{to_bridge} ip6 daddr != {{ {addresses} }}"),
                    "the host is no router for those outside",
                ),
            ]
        }
    }
}

/// What guests do not say by the uplink: what routers tell each other, and, where we give the addresses, questions that our
/// servers answer. What a router tells its network is no guest's to say anywhere.
fn to_outside(uplink: u32, addresses: GuestAddresses) -> Vec<String> {
    let oif = format!("oif {uplink}");
    let mut rules = vec![
        format!("type filter hook forward priority {FORWARD_PRIORITY}; policy accept;"),
        dropped(&format!("{oif} meta l4proto {ROUTING_PROTOCOLS}"), "plays a router to those outside"),
        dropped(&format!("{oif} udp dport {ROUTING_PORTS}"), "plays a router to those outside"),
    ];
    match addresses {
        GuestAddresses::Ours => rules.extend([
            format!("{oif} udp dport {{ 67, 547 }} drop"),
            format!("{oif} icmpv6 type nd-router-solicit drop"),
        ]),
        GuestAddresses::External => {}
    }
    rules
}

/// What this host says to its guests alone. Its groups and broadcasts go to every port.
fn host_to_outside(uplink: u32) -> Vec<String> {
    let oif = format!("oif {uplink}");
    vec![
        format!("type filter hook output priority {FORWARD_PRIORITY}; policy accept;"),
        format!("{oif} udp sport {{ 67, 547 }} drop"),
        format!("{oif} icmpv6 type {{ nd-router-advert, nd-redirect }} drop"),
    ]
}

//! What a guest may say on its wire: from its own hardware address and its own IP address only, and nothing that a
//! router or a DHCP server says.
//!
//! A table of nftables' family `bridge` looks at every frame that comes in by a TAP of ours before the bridge does. Who a
//! port belongs to stands in sets of that table: [`PortIdentity`] is one entry in each. So the rules are few and the same for
//! a thousand VMs, and a VM that comes or goes changes elements only ([`elements`]).
//!
//! ```text
//!  frame ─▶ port is ours? ─▶ own MAC? ─▶ under the flood limit? ─▶ ARP ──▶ own MAC and address inside
//!               │ no                                             ├▶ IPv4 ─▶ own address; no DHCP server's reply
//!               ▼                                                ├▶ IPv6 ─▶ own addresses; no router's words
//!             passes                                             └▶ anything else, VLAN tags among it: dropped
//! ```
//!
//! What comes in by an uplink is looked at too: [`outside`].
//!
//! A fragment that hides its header passes no rule that asks for one: IPv6 fragments and extension headers are dropped
//! but for the hop-by-hop options of multicast listener reports, and an IPv4 first fragment holds the whole UDP header
//! (RFC 791: fragments are of 8 bytes at least). How many of the latter the host has to remember is limited ([`fragments`]).

pub(crate) mod elements;
mod fragments;
mod outside;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use vm_model::{Ipv6Subnet, MacAddress};

pub(crate) use self::fragments::FragmentLimit;
use crate::GuestAddresses;
use crate::silence::HostIpv6;

/// Before the bridge looks at a frame, and before every usual filter (nftables' `dstnat` of this family is -300).
const PRIORITY: i32 = -350;
/// The usual priority of filters of this family (nftables' `filter`).
const FORWARD_PRIORITY: i32 = -200;
/// Frames to groups and to everybody that one port may send in a second, and at once after a silence. Every port gets a
/// copy of each.
const GROUP_RATE: (u32, u32) = (500, 1000);
/// Messages to the DHCP server, likewise: a client sends a handful when it starts.
const DHCP_RATE: (u32, u32) = (10, 40);
/// Questions to our name server, likewise: so few at once that the server's socket holds those of many ports.
const DNS_RATE: (u32, u32) = (200, 50);
/// Connections to our name server over TCP, likewise: a client needs one where an answer does not fit a datagram, and the
/// kernel remembers each for a while after its end.
const DNS_TCP_RATE: (u32, u32) = (20, 40);
/// The set of our ports.
pub(crate) const PORTS: &str = "ports";
/// Of each port: the hardware address of its guest.
pub(crate) const MACS: &str = "macs";
/// Of each port: the IPv4 address of its guest.
pub(crate) const IPV4: &str = "ipv4";
/// Questions to our DHCPv6 server and for the router, likewise.
const DHCPV6_RATE: (u32, u32) = DHCP_RATE;
/// Of each port: the IPv6 addresses of its guest, the link-local one among them.
pub(crate) const IPV6: &str = "ipv6";
/// As [`IPV6`], as the target of a neighbour advertisement (RFC 4861 §4.4: 8 bytes into the message).
pub(crate) const TARGETS: &str = "targets";
/// The hardware addresses of all guests.
pub(crate) const GUEST_MACS: &str = "guest_macs";
/// Their IPv4 addresses, where machines beyond an uplink are kept from claiming them.
pub(crate) const GUEST_IPV4: &str = "guest_ipv4";
/// Their IPv6 addresses, likewise.
pub(crate) const GUEST_IPV6: &str = "guest_ipv6";
/// As [`GUEST_IPV6`], as targets of neighbour advertisements.
pub(crate) const GUEST_TARGETS: &str = "guest_targets";

/// Whose wire a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortIdentity {
    pub(crate) mac: MacAddress,
    pub(crate) address: Ipv4Addr,
}

/// What the rules of a bridge depend on beside its ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) host_ipv6: HostIpv6,
    /// The host's address, where it has one there.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) fragments: FragmentLimit,
    /// Whether guests are bound to IP addresses too.
    pub(crate) addresses: GuestAddresses,
    /// The index of the uplink's port, where there is one.
    pub(crate) uplink: Option<u32>,
    /// Whether machines beyond the uplink are kept from claiming guests' addresses: where these are ours to give. Also before
    /// the uplink is there.
    pub(crate) guards_claims: bool,
    /// The bridge's own hardware address.
    pub(crate) bridge: MacAddress,
}

/// The ports that are filtered, by the index of their link.
pub(crate) type Identities = BTreeMap<u32, PortIdentity>;

impl PortIdentity {
    /// The link-local address that the guest's hardware address makes (RFC 4291, appendix A).
    pub(crate) fn link_local(self) -> Ipv6Addr {
        vm_model::link_local(self.mac)
    }

    /// Every IPv6 address that the guest may send from.
    pub(crate) fn ipv6(self, subnet: Option<Ipv6Subnet>) -> impl Iterator<Item = Ipv6Addr> {
        [self.link_local()].into_iter().chain(subnet.map(|subnet| subnet.address_of(self.mac)))
    }
}

/// The bridge family's table, in nft's language. Every rule that drops has a counter, so that `nft list table bridge …`
/// shows an administrator what guests try.
pub(crate) fn table_text(table: &str, identities: &Identities, wire: Wire) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!("table bridge {table} {{"));
    let each = |value: fn(PortIdentity) -> String| {
        let entry = |(index, identity): (&u32, &PortIdentity)| format!("{index} . {}", value(*identity));
        identities.iter().map(entry).collect::<Vec<_>>()
    };
    line(&set(PORTS, "type iface_index", &identities.keys().map(u32::to_string).collect::<Vec<_>>()));
    line(&set(MACS, "typeof iif . ether saddr", &each(|identity| identity.mac.to_string())));
    line(&set(IPV4, "typeof iif . ip saddr", &each(|identity| identity.address.to_string())));
    let each_ipv6 = |value: fn(Ipv6Addr) -> String| {
        let of_port = |(index, identity): (&u32, &PortIdentity)| {
            let index = *index;
            identity.ipv6(wire.host_ipv6.served()).map(move |address| format!("{index} . {}", value(address)))
        };
        identities.iter().flat_map(of_port).collect::<Vec<_>>()
    };
    line(&set(IPV6, "typeof iif . ip6 saddr", &each_ipv6(|address| address.to_string())));
    line(&set(TARGETS, "typeof iif . @th,64,128", &each_ipv6(target)));
    let macs: BTreeSet<String> = identities.values().map(|identity| identity.mac.to_string()).collect();
    line(&set(GUEST_MACS, "type ether_addr", &macs.into_iter().collect::<Vec<_>>()));
    if wire.guards_claims {
        let ipv4: BTreeSet<Ipv4Addr> = identities.values().map(|identity| identity.address).collect();
        let ipv6 = identities.values().flat_map(|identity| identity.ipv6(wire.host_ipv6.served()));
        let ipv6: BTreeSet<Ipv6Addr> = ipv6.collect();
        let shown = |ipv6: Ipv6Addr| ipv6.to_string();
        let of_ipv6 = |show: fn(Ipv6Addr) -> String| ipv6.iter().map(|it| show(*it)).collect::<Vec<_>>();
        line(&set(GUEST_IPV4, "type ipv4_addr", &ipv4.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>()));
        line(&set(GUEST_IPV6, "type ipv6_addr", &of_ipv6(shown)));
        line(&set(GUEST_TARGETS, "typeof @th,64,128", &of_ipv6(target)));
    }
    for limited in ["groups", "dhcp", "dhcpv6", "dns", "dns_tcp", fragments::SET] {
        line(&format!("set {limited} {{ typeof iif; size 4096; flags dynamic,timeout; timeout 1m; }}"));
    }
    for (chain, rules) in chains(wire) {
        line(&format!("chain {chain} {{"));
        for rule in rules {
            line(&rule);
        }
        line("}");
    }
    line("}");
    text
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let mut text = format!("set {name} {{ {kind}; ");
    if !elements.is_empty() {
        write!(text, "elements = {{ {} }}; ", elements.join(", ")).expect("a string takes all text");
    }
    text + "}"
}

/// The chains, each before those that jump to it.
fn chains(wire: Wire) -> Vec<(&'static str, Vec<String>)> {
    let Wire { gateway, fragments, .. } = wire;
    let is_bound = wire.addresses == GuestAddresses::Ours;
    let mut ipv4 = vec![
        dropped(&over("dhcp", "udp dport 67", DHCP_RATE), "too much DHCP"),
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept comment \"asks for its address\"".to_owned(),
    ];
    ipv4.extend(is_bound.then(|| dropped(&format!("iif . ip saddr != @{IPV4}"), "another's IPv4 address")));
    ipv4.extend([
        dropped("udp sport 67", "plays a DHCP server"),
        dropped("icmp type { redirect, router-advertisement }", "plays a router"),
        dropped("igmp type membership-query", "plays a router"),
        "ip frag-off & 0x3fff != 0 goto from_guest_fragment".to_owned(),
        dropped(
            &over("dns", &format!("ip daddr {gateway} udp dport 53"), DNS_RATE),
            "too many questions for names",
        ),
        dropped(
            &over(
                "dns_tcp",
                &format!("ip daddr {gateway} tcp dport 53 tcp flags & (syn | ack) == syn"),
                DNS_TCP_RATE,
            ),
            "too many connections for names",
        ),
        "accept".to_owned(),
    ]);
    let guest = vec![
        dropped(&format!("iif . ether saddr != @{MACS}"), "another's MAC address"),
        dropped(&link_groups(), "for a group that no bridge passes on"),
        dropped(
            &over("groups", "ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00", GROUP_RATE),
            "too much multicast and broadcast",
        ),
        "ether type arp goto from_guest_arp".to_owned(),
        "ether type ip goto from_guest_ipv4".to_owned(),
        "ether type ip6 goto from_guest_ipv6".to_owned(),
        dropped("", "neither IP nor ARP").trim_start().to_owned(),
    ];
    let mut every_frame = vec![
        format!("type filter hook prerouting priority {PRIORITY}; policy accept;"),
        format!("iif @{PORTS} goto from_guest"),
    ];
    every_frame.extend(wire.uplink.map(|uplink| format!("iif {uplink} goto from_outside")));
    let mut chains = vec![
        ("from_guest_arp", arp(is_bound)),
        ("from_guest_fragment", fragments.rules()),
        ("from_guest_ipv4", ipv4),
        ("from_guest_ipv6", ipv6(wire)),
        ("from_guest", guest),
    ];
    chains.extend(wire.uplink.map(|uplink| outside::chains(uplink, wire)).into_iter().flatten());
    chains.push(("every_frame", every_frame));
    chains
}

fn dropped(what: &str, why: &str) -> String {
    format!("{what} counter drop comment \"{why}\"")
}

/// An IPv6 address as the target in a message of neighbour discovery.
fn target(address: Ipv6Addr) -> String {
    format!("{:#034x}", u128::from(address))
}

/// A match on frames for the groups that a bridge keeps to itself (IEEE 802.1Q §8.6.3): spanning tree, LLDP and their like.
pub(crate) fn link_groups() -> String {
    "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00".to_owned()
}

/// What a guest may say in ARP; `is_bound` to its address.
fn arp(is_bound: bool) -> Vec<String> {
    let mut arp = vec![
        dropped("arp htype != 1", "malformed ARP"),
        dropped("arp ptype != 0x0800", "malformed ARP"),
        dropped("arp hlen != 6", "malformed ARP"),
        dropped("arp plen != 4", "malformed ARP"),
        dropped(&format!("iif . arp saddr ether != @{MACS}"), "another's MAC address in ARP"),
    ];
    let probe = "arp saddr ip 0.0.0.0";
    if is_bound {
        arp.extend([
            dropped(&format!("{probe} iif . arp daddr ip != @{IPV4}"), "probes for another's IPv4 address"),
            format!("{probe} accept comment \"a probe\""),
            dropped(&format!("iif . arp saddr ip != @{IPV4}"), "another's IPv4 address in ARP"),
        ]);
    }
    arp.push("accept".to_owned());
    arp
}

/// What a guest may say in IPv6. Where the host kept the IPv6 that a bridge had, and where others give addresses, the network has
/// addresses that we did not give out: whose they are is not ours to say there.
fn ipv6(wire: Wire) -> Vec<String> {
    let host_ipv6 = wire.host_ipv6;
    let is_bound = wire.addresses == GuestAddresses::Ours && host_ipv6 != HostIpv6::Kept;
    let mut rules = vec![
        dropped("icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query }", "plays a router"),
        dropped("udp sport 547", "plays a DHCPv6 server"),
        dropped(&over("dhcpv6", "udp dport 547", DHCPV6_RATE), "too much DHCPv6"),
        dropped(
            &over("dhcpv6", "icmpv6 type nd-router-solicit", DHCPV6_RATE),
            "too many questions for routers",
        ),
    ];
    // The one kind of packet that has to have an extension header, and that no router passes on (RFC 3810, section 5).
    let membership = "ip6 nexthdr 0 ip6 hoplimit 1 ip6 daddr ff00::/8 \
                      icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept";
    rules.push(format!("ip6 saddr :: {membership}"));
    rules.push(if is_bound {
        format!("iif . ip6 saddr @{IPV6} {membership}")
    } else {
        membership.to_owned()
    });
    rules.push(dropped(
        "ip6 nexthdr != { 6, 17, 58 }",
        "an extension header, a fragment, or no protocol of a VM",
    ));
    if is_bound {
        rules.extend([
            dropped(
                &format!("icmpv6 type nd-neighbor-advert iif . @th,64,128 != @{TARGETS}"),
                "advertises another's IPv6 address",
            ),
            "ip6 saddr :: icmpv6 type nd-router-solicit accept".to_owned(),
            format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit iif . @th,64,128 @{TARGETS} accept"),
            dropped(&format!("iif . ip6 saddr != @{IPV6}"), "another's IPv6 address"),
        ]);
    }
    // What is of no connection that this host must know.
    rules.extend(match host_ipv6 {
        HostIpv6::Off => Some("ip6 saddr fe80::/10 notrack".to_owned()),
        HostIpv6::Served(_) => Some("ip6 daddr ff00::/8 notrack".to_owned()),
        HostIpv6::Kept => None,
    });
    if let HostIpv6::Served(subnet) = host_ipv6 {
        let questions = format!("ip6 daddr {} udp dport 53", subnet.gateway());
        rules.push(dropped(&over("dns", &questions, DNS_RATE), "too many questions for names"));
        let connections =
            format!("ip6 daddr {} tcp dport 53 tcp flags & (syn | ack) == syn", subnet.gateway());
        rules.push(dropped(&over("dns_tcp", &connections, DNS_TCP_RATE), "too many connections for names"));
    }
    rules.push("accept".to_owned());
    rules
}

/// A match on what one port sends beyond a rate, counted in the set `set`.
fn over(set: &str, what: &str, (rate, burst): (u32, u32)) -> String {
    format!("{what} update @{set} {{ iif limit rate over {rate}/second burst {burst} packets }}")
}

#[cfg(test)]
mod tests;

//! Our own nftables tables, and what stands in the one of the family `ip` (that of the family `ip6` is alike, in
//! `ipv6/table.rs`): masquerading,
//! ports of the host that lead to VMs ([`crate::forwards`]), what VMs reach of the host, no
//! foreign source addresses from VMs, and no forwarding between others where the host forwards for VMs only. What a guest
//! may say on its wire stands in the one of the family `bridge` ([`crate::port_filter`]).
//!
//! All are replaced whole in one transaction, so applying them twice is the same as once, and nobody else's
//! table is written. An `accept` of ours ends our own chain only: a packet passes when no table on the host drops it, so one
//! table's `accept` cannot lift another's `drop`. Where such a drop is seen, it is told as a [`ForwardDrop`] rather
//! than worked around.

mod forward_drop;
mod listing;

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use thiserror::Error;
use vm_model::MacAddress;

pub(crate) use self::forward_drop::find_forward_drops;
pub use self::forward_drop::{ForwardDrop, observe_forward_drops};
pub(crate) use self::listing::Listing;
use crate::bound_port::{Ports, Tables, identities};
use crate::bridge::BridgeOrigin;
use crate::connections::{self, Counting, IpVersion};
use crate::forwarding::has_ipv6;
use crate::ipv6::Ipv6Guard;
use crate::names::bridge_mac;
use crate::netlink::Ipv6Stack;
use crate::next_hops::{self, NextHopRates, Origin};
use crate::nft::{self, NftError};
use crate::port_filter::{FragmentLimit, Wire};
use crate::silence::HostIpv6;
use crate::{
    BetweenVms, Egress, GuestAddresses, HostService, LinkName, NetworkConfig, egress, forwards, ipv6,
    port_filter,
};

/// Just before the usual filter priority (0): what VMs may not send need not be looked at further.
pub(crate) const FILTER_PRIORITY: i32 = -10;
/// The usual priority of source address translation.
pub(crate) const SOURCE_NAT_PRIORITY: i32 = 100;
/// The families of our tables. All have one name.
const FAMILIES: [&str; 2] = ["ip", "bridge"];
/// The one more where guests have IPv6 addresses.
const IPV6_FAMILY: &str = "ip6";

/// The comment of the rules that guard links.
pub(crate) const GUARD: &str = "this host forwards for VMs only";

/// Why our tables could not be applied or removed.
#[derive(Debug, Error)]
#[error("cannot {operation} the nftables tables {table}")]
pub struct FirewallError {
    operation: &'static str,
    table: String,
    #[source]
    cause: NftError,
}

/// What our tables are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firewall {
    pub(crate) table: String,
    pub(crate) bridge: LinkName,
    /// The bridge's index, by which the host stays closed to VMs whatever the bridge is called; `None` before it is made.
    pub(crate) bridge_index: Option<u32>,
    pub(crate) subnet: Ipv4Network,
    /// The host's address in it.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) egress: Egress,
    pub(crate) between_vms: BetweenVms,
    /// What VMs reach of the host beside pings and DHCP.
    pub(crate) services: Vec<HostService>,
    /// How guests' connections are counted.
    pub(crate) counting: Counting,
    /// How many neighbours of the host guests may look for.
    pub(crate) next_hops: NextHopRates,
    /// How many fragments of guests the host puts together.
    pub(crate) fragments: FragmentLimit,
    /// The bridge's hardware address, where the bridge has guests alone.
    pub(crate) router: Option<MacAddress>,
    pub(crate) host_ipv6: HostIpv6,
    /// Whether the kernel has IPv6, and so maybe a table of an earlier run.
    pub(crate) ipv6_stack: Ipv6Stack,
    /// There where IPv6 is forwarded from and to VMs alone.
    pub(crate) ipv6_guard: Option<Ipv6Guard>,
    /// Whether our name server is there for VMs.
    pub(crate) names: bool,
    /// The bridges of the worker's other networks.
    pub(crate) peers: Vec<LinkName>,
    /// Whether the bridge has an uplink.
    pub(crate) has_uplink: bool,
    /// The index of the link that is the uplink's port; `None` before it is there.
    pub(crate) uplink_index: Option<u32>,
    pub(crate) addresses: GuestAddresses,
}

/// A link whose forwarding is on for the VMs' sake alone: what comes in there may go on to the bridge only, or belongs to a
/// connection that began elsewhere. A stranger cannot begin one through it: its first packet is dropped. But the answers to
/// what another worker's VMs asked, whose bridge is not known here, come in by it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GuardedLink {
    pub(crate) index: u32,
    /// Whether it is a bridge: frames between two ports of one meet our rules too where `br_netfilter` is on, and are
    /// not forwarded by the host.
    pub(crate) is_bridge: bool,
}

impl Firewall {
    /// Looks at the sizes of the host's tables that guests share. Blocks.
    pub(crate) fn new(config: &NetworkConfig, host_ipv6: HostIpv6, origin: BridgeOrigin) -> Self {
        let networks = config.peers.len() + 1;
        Self {
            table: config.nft_table.clone(),
            bridge: config.bridge.clone(),
            bridge_index: None,
            subnet: config.network(),
            gateway: config.gateway,
            egress: config.egress,
            between_vms: config.between_vms,
            services: config.host_services.clone(),
            counting: Counting::of(config.connections),
            next_hops: NextHopRates::of_host(networks),
            fragments: FragmentLimit::of_host(config.mtu, networks),
            router: match origin {
                BridgeOrigin::Created | BridgeOrigin::Ours if config.uplink.is_none() => {
                    Some(bridge_mac(&config.bridge))
                }
                BridgeOrigin::Created | BridgeOrigin::Ours | BridgeOrigin::Adopted => None,
            },
            host_ipv6,
            ipv6_stack: if has_ipv6() { Ipv6Stack::Present } else { Ipv6Stack::Absent },
            ipv6_guard: None,
            names: false,
            peers: config.peers.clone(),
            has_uplink: config.uplink.is_some(),
            uplink_index: None,
            addresses: config.addresses,
        }
    }

    /// Our tables, as far as elements of ports go.
    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables { name: &self.table, ipv6: self.host_ipv6.served(), guards_claims: self.guards_claims() }
    }

    /// Whether machines beyond an uplink are kept from claiming guests' addresses.
    fn guards_claims(&self) -> bool {
        self.has_uplink && self.addresses == GuestAddresses::Ours
    }

    /// The transaction that leaves exactly our tables.
    pub(crate) fn script(&self, guarded: &[GuardedLink], ports: &Ports) -> String {
        let mut script = self.removal_script();
        script.push_str(&self.ip_table(guarded, ports));
        if let Some(subnet) = self.host_ipv6.served() {
            script.push_str(&ipv6::table_text(self, subnet, ports));
        }
        script.push_str(&port_filter::table_text(&self.table, &identities(ports), self.wire()));
        script
    }

    /// What passes on the wires of guests and by the uplink depends on this.
    fn wire(&self) -> Wire {
        Wire {
            host_ipv6: self.host_ipv6,
            gateway: self.gateway,
            fragments: self.fragments,
            addresses: self.addresses,
            uplink: self.uplink_index,
            guards_claims: self.guards_claims(),
            bridge: bridge_mac(&self.bridge),
        }
    }

    fn ip_table(&self, guarded: &[GuardedLink], ports: &Ports) -> String {
        let Self { table, bridge, subnet, gateway, egress, .. } = self;
        let input = self.input_rules();
        let mut chains = vec![
            ("egress", String::new(), egress::rules(&egress::IPV4)),
            ("forward", hook("filter", "forward", FILTER_PRIORITY), self.forward_rules(guarded)),
            ("from_vms", String::new(), self.host_rules()),
            ("input", hook("filter", "input", FILTER_PRIORITY), input),
        ];
        chains.extend(connections::untracked_chains(bridge, *subnet, *gateway));
        let origin = Origin { bridge, subnet, router: self.router };
        chains.extend(next_hops::chains(self.next_hops, origin, IpVersion::V4));
        chains.extend(connections::chains(self.counting, bridge, IpVersion::V4));
        chains.extend(forwards::chains(bridge, *gateway, *egress, &self.peers));
        let mut translated = vec![forwards::return_rule(bridge, *subnet)];
        if *egress == Egress::Masquerade {
            let guests = self.forwarded_for(IpVersion::V4, subnet);
            translated.push(format!(
                "ip saddr {guests} ip daddr != {subnet} oifname != \"{bridge}\" masquerade \
                 comment \"VMs leave under the host's address\""
            ));
        }
        chains.push(("postrouting", hook("nat", "postrouting", SOURCE_NAT_PRIORITY), translated));
        let mut text = format!("table ip {table} {{\n");
        let guests: BTreeSet<Ipv4Addr> = ports.values().map(|port| port.identity.address).collect();
        let guests: Vec<String> = guests.iter().map(ToString::to_string).collect();
        text += &(forwards::maps_text(ports)
            + &egress::sets_text(ports)
            + &next_hops::sets_text(IpVersion::V4, &guests)
            + &connections::sets_text(self.counting, IpVersion::V4));
        for (name, hook, rules) in chains {
            writeln!(text, "chain {name} {{\n{hook}{}\n}}", rules.join("\n"))
                .expect("a string takes all text");
        }
        text + "}\n"
    }

    /// What is not forwarded. From VM to VM is their own affair, unless they are kept apart; with `br_netfilter` those frames
    /// come by here too.
    fn forward_rules(&self, guarded: &[GuardedLink]) -> Vec<String> {
        let Self { bridge, subnet, .. } = self;
        let mut rules = self.ways_out(IpVersion::V4, subnet);
        rules.extend(self.kept_apart(IpVersion::V4));
        rules.extend(self.apart());
        rules.push(egress::entrance(bridge, &egress::IPV4));
        let bridges: Vec<&LinkName> = std::iter::once(bridge).chain(&self.peers).collect();
        rules.extend(guarded.iter().map(|link| guard(*link, &bridges)));
        rules
    }

    /// Whom this host forwards for, as a match on an address: everybody of the network, or the VMs alone where an uplink brings
    /// others into it.
    pub(crate) fn forwarded_for(&self, version: IpVersion, subnet: impl Display) -> String {
        if self.has_uplink {
            format!("@{}", next_hops::NextHopSets::of(version).guests)
        } else {
            subnet.to_string()
        }
    }

    /// What is not forwarded from the network and to it. Machines beyond an uplink find no router in this host: neither to other
    /// networks nor from there.
    pub(crate) fn ways_out(&self, version: IpVersion, subnet: impl Display) -> Vec<String> {
        let bridge = &self.bridge;
        let (protocol, _) = version.names();
        let leaves = format!("iifname \"{bridge}\" oifname != \"{bridge}\"");
        let arrives = format!("oifname \"{bridge}\" iifname != \"{bridge}\"");
        match (self.egress, self.has_uplink) {
            (Egress::Masquerade, false) => vec![format!(
                "{leaves} {protocol} saddr != {subnet} drop comment \"VMs leave from their own network's addresses only\""
            )],
            (Egress::Routed, false) => Vec::new(),
            (Egress::Masquerade | Egress::Routed, true) => {
                let guests = self.forwarded_for(version, subnet);
                vec![
                    format!(
                        "{leaves} {protocol} saddr != {guests} counter drop comment \"no router for those beyond the uplink\""
                    ),
                    format!(
                        "{arrives} {protocol} daddr != {guests} counter drop comment \"no router to those beyond the uplink\""
                    ),
                ]
            }
            (Egress::Isolated, _) => vec![
                format!("{leaves} drop comment \"VMs do not leave\""),
                format!("{arrives} drop comment \"nobody comes to VMs\""),
            ],
        }
    }

    /// The rule by which guests do not reach each other by way of the host, where they are kept apart. With an uplink, frames
    /// between guests and machines beyond come by here too where `br_netfilter` is on: those pass.
    pub(crate) fn kept_apart(&self, version: IpVersion) -> Option<String> {
        let bridge = &self.bridge;
        let whom = match (self.between_vms, self.has_uplink, self.addresses) {
            (BetweenVms::Open, ..) => return None,
            (BetweenVms::Isolated, false, _) => String::new(),
            (BetweenVms::Isolated, true, GuestAddresses::Ours) => next_hops::between_guests(version),
            // The host has no address there, so it passes nothing on from one to another.
            (BetweenVms::Isolated, true, GuestAddresses::External) => return None,
        };
        Some(format!(
            "iifname \"{bridge}\" oifname \"{bridge}\" {whom}drop comment \"VMs do not reach each other\""
        ))
    }

    /// The rule by which guests do not reach those of the worker's other networks, where there are any.
    pub(crate) fn apart(&self) -> Option<String> {
        let (bridge, peers) = (&self.bridge, link_set(&self.peers));
        let rule = || {
            format!(
                "iifname \"{bridge}\" oifname {peers} counter drop comment \"networks of VMs are kept apart\""
            )
        };
        (!self.peers.is_empty()).then(rule)
    }

    /// Which packets for the host are from VMs. Frames for the groups that bridges keep to themselves come in by a port, whatever the
    /// bridge's own rules say; packets have no business there.
    pub(crate) fn input_rules(&self) -> Vec<String> {
        let bridge = &self.bridge;
        let mut input = vec![
            format!(
                "{} counter drop comment \"for a group that no bridge passes on\"",
                port_filter::link_groups()
            ),
            format!("iifname \"{bridge}\" goto from_vms"),
        ];
        input.extend(self.bridge_index.map(|index| format!("iif {index} goto from_vms")));
        input
    }

    /// What VMs reach of the host itself, on any of its addresses. Answers to what the host began come in; DHCP is heard
    /// before rules are looked at.
    fn host_rules(&self) -> Vec<String> {
        let mut rules = vec![
            "ct state { established, related } accept".to_owned(),
            "ip daddr 127.0.0.0/8 counter drop comment \"loopback is the host's own\"".to_owned(),
            "icmp type echo-request accept".to_owned(),
            "udp dport 67 accept".to_owned(),
        ];
        if self.names {
            let gateway = self.gateway;
            rules.push(format!(
                "ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept comment \"names of VMs and others\""
            ));
        }
        rules.extend(self.services.iter().map(|HostService { transport, port }| {
            format!("{transport} dport {port} accept comment \"a service for VMs\"")
        }));
        rules.push("counter drop comment \"the host is closed to VMs\"".to_owned());
        rules
    }

    /// The transaction after which there is no table of ours, whether there was one or not. Adding before deleting
    /// makes the deletion succeed also where there is no table yet.
    fn removal_script(&self) -> String {
        let mut script = String::new();
        let families = FAMILIES.into_iter().chain(match self.ipv6_stack {
            Ipv6Stack::Present => Some(IPV6_FAMILY),
            Ipv6Stack::Absent => None,
        });
        for family in families {
            for verb in ["add", "delete"] {
                writeln!(script, "{verb} table {family} {}", self.table).expect("a string takes all text");
            }
        }
        script
    }

    /// Puts our tables in place; from then on without counting connections where the kernel cannot. Blocks on `nft`.
    ///
    /// # Errors
    /// If they cannot be had.
    pub(crate) fn apply(&mut self, guarded: &[GuardedLink], ports: &Ports) -> Result<(), FirewallError> {
        let Err(refusal) = self.run(&self.script(guarded, ports), "apply") else { return Ok(()) };
        let (Counting::ByCount(most), NftError::Refused { .. }) = (self.counting, &refusal.cause) else {
            return Err(refusal);
        };
        let simpler = Self { counting: Counting::ByRate(most), ..self.clone() };
        // Where that does not help, the first refusal says more.
        simpler.run(&simpler.script(guarded, ports), "apply").map_err(|_| refusal)?;
        *self = simpler;
        Ok(())
    }

    /// Removes our tables; no error if there are none, or no `nft` that could have made them. Blocks on `nft`.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub(crate) fn remove(&self) -> Result<(), FirewallError> {
        match self.run(&self.removal_script(), "remove") {
            Err(FirewallError { cause: NftError::Missing(_), .. }) => Ok(()),
            other => other,
        }
    }

    /// Our tables as `nft` shows them now; `None` where one is missing or cannot be seen. Blocks on `nft`.
    pub(crate) fn listing(&self) -> Option<Listing> {
        let mut text = String::new();
        let families = FAMILIES.into_iter().chain(self.host_ipv6.served().map(|_| IPV6_FAMILY));
        for family in families {
            text.push_str(&nft::list(&["-s", "list", "table", family, &self.table]).ok()?);
        }
        Some(Listing::new(&text))
    }

    /// Whether a listing has all the rules that [`Firewall::apply`] makes. Each that drops has a comment.
    pub(crate) fn shows_every_rule(&self, guarded: &[GuardedLink], listing: &Listing) -> bool {
        let rules = |text: &str| text.matches(" comment \"").count();
        rules(&self.script(guarded, &Ports::new())) == rules(listing.rules())
    }

    fn run(&self, script: &str, operation: &'static str) -> Result<(), FirewallError> {
        let failed = |cause| FirewallError { operation, table: self.table.clone(), cause };
        nft::run_script(script).map_err(failed)
    }
}

pub(crate) fn hook(kind: &str, hook: &str, priority: i32) -> String {
    format!("type {kind} hook {hook} priority {priority}; policy accept;\n")
}

/// Links as nft names a set of them.
pub(crate) fn link_set<'a>(links: impl IntoIterator<Item = &'a LinkName>) -> String {
    let quoted: Vec<String> = links.into_iter().map(|link| format!("\"{link}\"")).collect();
    format!("{{ {} }}", quoted.join(", "))
}

/// The rule by which nothing begins through `link` but what is for VMs of this worker.
fn guard(link: GuardedLink, bridges: &[&LinkName]) -> String {
    let GuardedLink { index, is_bridge } = link;
    let but_itself = if is_bridge { format!("oif != {index} ") } else { String::new() };
    let to_vms = match bridges {
        [bridge] => format!("\"{bridge}\""),
        bridges => link_set(bridges.iter().copied()),
    };
    format!(
        "iif {index} {but_itself}oifname != {to_vms} ct state != {{ established, related }} drop \
         comment \"{GUARD}\""
    )
}

#[cfg(test)]
mod tests;

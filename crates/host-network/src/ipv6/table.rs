//! Our table of the family `ip6`: the same as the one of the family `ip` is for IPv4 ([`crate::firewall`]), but that no ports
//! of the host lead to VMs by it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv6Addr;

use vm_model::Ipv6Subnet;

use super::Ipv6Guard;
use crate::bound_port::Ports;
use crate::connections::{self, IpVersion};
use crate::firewall::{FILTER_PRIORITY, Firewall, GUARD, SOURCE_NAT_PRIORITY, hook};
use crate::next_hops::{self, Origin};
use crate::{Egress, HostService, egress};

/// The table in nft's language.
pub(crate) fn table_text(firewall: &Firewall, subnet: Ipv6Subnet, ports: &Ports) -> String {
    let Firewall { table, bridge, .. } = firewall;
    let input = firewall.input_rules();
    let mut chains = vec![
        ("egress", String::new(), egress::rules(&egress::IPV6)),
        ("forward", hook("filter", "forward", FILTER_PRIORITY), forward_rules(firewall, subnet)),
        ("from_vms", String::new(), host_rules(firewall, subnet)),
        ("input", hook("filter", "input", FILTER_PRIORITY), input),
    ];
    chains.extend(connections::untracked_ipv6_chains(bridge, subnet));
    let origin = Origin { bridge, subnet, router: firewall.router };
    chains.extend(next_hops::chains(firewall.next_hops, origin, IpVersion::V6));
    chains.extend(connections::chains(firewall.counting, bridge, IpVersion::V6));
    if firewall.egress == Egress::Masquerade {
        let guests = firewall.forwarded_for(IpVersion::V6, subnet);
        let translated = format!(
            "ip6 saddr {guests} ip6 daddr != {subnet} oifname != \"{bridge}\" masquerade \
             comment \"VMs leave under the host's address\""
        );
        chains.push(("postrouting", hook("nat", "postrouting", SOURCE_NAT_PRIORITY), vec![translated]));
    }
    let mut text = format!("table ip6 {table} {{\n");
    let guests: BTreeSet<Ipv6Addr> =
        ports.values().map(|port| subnet.address_of(port.identity.mac)).collect();
    let guests: Vec<String> = guests.iter().map(ToString::to_string).collect();
    text += &(egress::ipv6_sets_text(ports, subnet)
        + &next_hops::sets_text(IpVersion::V6, &guests)
        + &connections::sets_text(firewall.counting, IpVersion::V6));
    for (name, hook, rules) in chains {
        writeln!(text, "chain {name} {{\n{hook}{}\n}}", rules.join("\n")).expect("a string takes all text");
    }
    text + "}\n"
}

fn forward_rules(firewall: &Firewall, subnet: Ipv6Subnet) -> Vec<String> {
    let bridge = &firewall.bridge;
    let mut rules = firewall.ways_out(IpVersion::V6, subnet);
    rules.extend(firewall.kept_apart(IpVersion::V6));
    rules.extend(firewall.apart());
    rules.push(egress::entrance(bridge, &egress::IPV6));
    if let Some(Ipv6Guard { of_vms, others }) = &firewall.ipv6_guard {
        rules.extend(others.iter().map(|bridge| format!("iif {bridge} oif {bridge} accept")));
        let bridges = of_vms.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        rules.push(format!(
            "iif != {{ {bridges} }} oif != {{ {bridges} }} ct state != {{ established, related }} drop \
             comment \"{GUARD}\""
        ));
    }
    rules
}

/// What VMs reach of the host itself, on any of its addresses. DHCPv6 and router solicitations are heard before rules are
/// looked at; who has which address is asked and answered by all.
fn host_rules(firewall: &Firewall, subnet: Ipv6Subnet) -> Vec<String> {
    let mut rules = vec![
        "ct state { established, related } accept".to_owned(),
        "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept"
            .to_owned(),
        "udp dport 547 accept".to_owned(),
    ];
    if firewall.names {
        let gateway = subnet.gateway();
        rules.push(format!(
            "ip6 daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept comment \"names of VMs and others\""
        ));
    }
    rules.extend(firewall.services.iter().map(|HostService { transport, port }| {
        format!("{transport} dport {port} accept comment \"a service for VMs\"")
    }));
    rules.push("counter drop comment \"the host is closed to VMs\"".to_owned());
    rules
}

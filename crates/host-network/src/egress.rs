//! What VMs may open connections to beyond their network, where their definition says so.
//!
//! Three sets in our table of the family `ip`, and three in that of the family `ip6`: the guests that are restricted, the
//! networks that each may reach, and the ports. A list is of both families; where it has none of one, nothing is reached by it.
//! A packet of a restricted guest that begins or goes on with a connection of its own passes only by an element of its own; what
//! answers a connection that others opened passes. So the rules are few, and a VM that comes or goes changes elements only.

use std::net::{IpAddr, Ipv6Addr};

use vm_model::{EgressRule, Ipv6Subnet};

use crate::LinkName;
use crate::bound_port::{BoundPort, Ports};
use crate::forwards::protocol;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family, joined};

/// The sets of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EgressSets {
    family: Family,
    /// nft's name of its addresses, and of packets' fields.
    address: &'static str,
    protocol: &'static str,
    /// The set of guests that are restricted.
    pub(crate) restricted: &'static str,
    /// The set of networks that guests may reach, and that of ports.
    pub(crate) networks: &'static str,
    pub(crate) services: &'static str,
}

pub(crate) const IPV4: EgressSets = EgressSets {
    family: Family::Ipv4,
    address: "ipv4_addr",
    protocol: "ip",
    restricted: "restricted",
    networks: "egress_networks",
    services: "egress_services",
};

/// Named otherwise than those of IPv4: both tables are listed together.
pub(crate) const IPV6: EgressSets = EgressSets {
    family: Family::Ipv6,
    address: "ipv6_addr",
    protocol: "ip6",
    restricted: "restricted6",
    networks: "egress_networks6",
    services: "egress_services6",
};

/// The sets of the family of `address`.
pub(crate) fn sets_of(address: IpAddr) -> &'static EgressSets {
    match address {
        IpAddr::V4(_) => &IPV4,
        IpAddr::V6(_) => &IPV6,
    }
}

/// The messages that make `change` of what the guest with this address may reach by its family, in `table`.
pub(crate) fn messages(
    table: &str,
    change: Change,
    guest: IpAddr,
    rules: Option<&[EgressRule]>,
) -> Vec<Message> {
    let Some(rules) = rules else { return Vec::new() };
    let sets = sets_of(guest);
    let restricted = Element { set: sets.restricted, key: octets(guest), last: None, value: None };
    let elements = [restricted].into_iter().chain(needed(rules, guest).map(|rule| element(guest, rule)));
    elements.map(|element| element.message(sets.family, table, change)).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The rules of the family of `guest`, without those that another one covers: a set of ranges takes none twice.
fn needed(rules: &[EgressRule], guest: IpAddr) -> impl Iterator<Item = &EgressRule> {
    let own = rules.iter().enumerate().filter(move |(_, rule)| rule.network.is_ipv4() == guest.is_ipv4());
    own.filter_map(|(place, rule)| {
        let is_covered = rules.iter().enumerate().any(|(other, wider)| {
            // Of two that are the same, the first counts.
            other != place && wider.covers(rule) && (other < place || wider != rule)
        });
        (!is_covered).then_some(rule)
    })
}

fn element(guest: IpAddr, rule: &EgressRule) -> Element {
    let key = |destination: IpAddr| match rule.service {
        Some((transport, port)) => {
            joined(&[&octets(guest), &octets(destination), &[protocol(transport)], &port.get().to_be_bytes()])
        }
        None => joined(&[&octets(guest), &octets(destination)]),
    };
    let sets = sets_of(guest);
    let set = if rule.service.is_some() { sets.services } else { sets.networks };
    Element { set, key: key(rule.network), last: Some(key(rule.last())), value: None }
}

/// An element in nft's language.
fn element_text(guest: IpAddr, rule: &EgressRule) -> String {
    let EgressRule { network, prefix, service } = rule;
    let service = service.map(|(transport, port)| format!(" . {transport} . {port}")).unwrap_or_default();
    format!("{guest} . {network}/{prefix}{service}")
}

/// A guest and where it may go, from an element as `nft` shows it.
pub(crate) fn read_element(text: &str) -> Option<(IpAddr, EgressRule)> {
    let mut parts = text.split(" . ").map(str::trim);
    let guest: IpAddr = parts.next()?.parse().ok()?;
    let network = parts.next()?;
    let rule = match (parts.next(), parts.next()) {
        (Some(transport), Some(port)) if guest.is_ipv4() => format!("{network}:{port}/{transport}"),
        (Some(transport), Some(port)) => format!("[{network}]:{port}/{transport}"),
        (None, _) => network.to_owned(),
        (Some(_), None) => return None,
    };
    let rule: EgressRule = rule.parse().ok()?;
    (rule.network.is_ipv4() == guest.is_ipv4()).then_some((guest, rule))
}

/// What of `rules` a table shows of the guest with this address where it is whole.
pub(crate) fn shown(rules: &[EgressRule], guest: IpAddr) -> Vec<EgressRule> {
    needed(rules, guest).copied().collect()
}

/// The sets of IPv4 with what `ports` may reach, in nft's language.
pub(crate) fn sets_text(ports: &Ports) -> String {
    text(&IPV4, ports, |port| port.identity.address.into())
}

/// As [`sets_text`], of IPv6.
pub(crate) fn ipv6_sets_text(ports: &Ports, subnet: Ipv6Subnet) -> String {
    text(&IPV6, ports, |port| Ipv6Addr::into(subnet.address_of(port.identity.mac)))
}

fn text(sets: &EgressSets, ports: &Ports, address: impl Fn(&BoundPort) -> IpAddr) -> String {
    let (mut guests, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports.values() {
        let Some(rules) = &port.access.egress else { continue };
        let guest = address(port);
        guests.push(guest.to_string());
        for rule in needed(rules, guest) {
            let elements = if rule.service.is_some() { &mut services } else { &mut networks };
            elements.push(element_text(guest, rule));
        }
    }
    let set = |name: &str, kind: &str, elements: &[String]| {
        let elements = match elements {
            [] => String::new(),
            elements => format!(" elements = {{ {} }};", elements.join(", ")),
        };
        format!("set {name} {{ type {kind};{elements} }}\n")
    };
    let address = sets.address;
    let pairs = format!("{address} . {address}");
    set(sets.restricted, address, &guests)
        + &set(sets.networks, &format!("{pairs}; flags interval"), &networks)
        + &set(sets.services, &format!("{pairs} . inet_proto . inet_service; flags interval"), &services)
}

/// The rule that sends what restricted guests send to the chain of [`rules`].
pub(crate) fn entrance(bridge: &LinkName, sets: &EgressSets) -> String {
    let EgressSets { protocol, restricted, .. } = sets;
    format!(
        "iifname \"{bridge}\" oifname != \"{bridge}\" {protocol} saddr @{restricted} goto egress \
         comment \"restricted VMs\""
    )
}

/// What restricted guests may send.
pub(crate) fn rules(sets: &EgressSets) -> Vec<String> {
    let EgressSets { protocol, networks, services, .. } = sets;
    vec![
        "ct direction reply ct state established accept".to_owned(),
        "ct state related accept".to_owned(),
        format!("{protocol} saddr . {protocol} daddr @{networks} accept"),
        format!("{protocol} saddr . {protocol} daddr . meta l4proto . th dport @{services} accept"),
        "counter drop comment \"beyond what the VM may reach\"".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<EgressRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_covered_is_left_out() {
        let given = rules(&["10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16:80", "10.0.0.0/8", "1.1.1.1:80"]);
        let guest = [10, 100, 0, 2].into();
        assert_eq!(shown(&given, guest), rules(&["10.0.0.0/8", "10.1.0.0/16:80", "1.1.1.1:80"]));
        assert_eq!(shown(&given, IpAddr::V6(Ipv6Addr::LOCALHOST)), [], "another family is not reached");
    }

    #[test]
    fn elements_are_read_as_nft_shows_them() {
        let guest: IpAddr = [10, 100, 0, 2].into();
        for rule in rules(&["0.0.0.0/0", "10.0.0.0/8", "1.1.1.1:443", "10.0.0.0/8:53/udp"]) {
            assert_eq!(read_element(&element_text(guest, &rule)), Some((guest, rule)));
        }
        let other: IpAddr = "fd12::2".parse().unwrap();
        for rule in rules(&["::/0", "2001:db8::/32", "[2001:db8::1]:443"]) {
            assert_eq!(read_element(&element_text(other, &rule)), Some((other, rule)));
        }
        assert_eq!(
            read_element("10.100.0.2 . 1.1.1.1 . tcp . 443"),
            Some((guest, rules(&["1.1.1.1:443"])[0]))
        );
        for nonsense in ["", "10.100.0.2", "10.100.0.2 . x", "10.100.0.2 . 1.1.1.1 . tcp", "10.100.0.2 . ::1"]
        {
            assert_eq!(read_element(nonsense), None, "{nonsense:?}");
        }
    }
}

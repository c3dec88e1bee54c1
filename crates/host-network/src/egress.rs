//! What VMs may open connections to beyond their network, where their definition says so.
//!
//! Three sets in our table of the family `ip`: the guests that are restricted, the networks that each may reach, and the ports.
//! A packet of a restricted guest that begins or goes on with a connection of its own passes only by an element of its own; what
//! answers a connection that others opened passes. So the rules are few, and a VM that comes or goes changes elements only.

use std::net::Ipv4Addr;

use vm_model::EgressRule;

use crate::LinkName;
use crate::bound_port::Ports;
use crate::forwards::protocol;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family, joined};

/// The set of guests that are restricted.
pub(crate) const RESTRICTED: &str = "restricted";
/// The set of networks that guests may reach, and that of ports.
pub(crate) const NETWORKS: &str = "egress_networks";
pub(crate) const SERVICES: &str = "egress_services";

/// The messages that make `change` of what the guest with this address may reach, in `table`.
pub(crate) fn messages(
    table: &str,
    change: Change,
    guest: Ipv4Addr,
    rules: Option<&[EgressRule]>,
) -> Vec<Message> {
    let Some(rules) = rules else { return Vec::new() };
    let restricted = Element { set: RESTRICTED, key: guest.octets().to_vec(), last: None, value: None };
    let elements = [restricted].into_iter().chain(needed(rules).map(|rule| element(guest, rule)));
    elements.map(|element| element.message(Family::Ipv4, table, change)).collect()
}

/// The rules without those that another one covers: a set of ranges takes none twice.
fn needed(rules: &[EgressRule]) -> impl Iterator<Item = &EgressRule> {
    rules.iter().enumerate().filter_map(|(place, rule)| {
        let is_covered = rules.iter().enumerate().any(|(other, wider)| {
            // Of two that are the same, the first counts.
            other != place && wider.covers(rule) && (other < place || wider != rule)
        });
        (!is_covered).then_some(rule)
    })
}

fn element(guest: Ipv4Addr, rule: &EgressRule) -> Element {
    let key = |destination: Ipv4Addr| match rule.service {
        Some((transport, port)) => joined(&[
            &guest.octets(),
            &destination.octets(),
            &[protocol(transport)],
            &port.get().to_be_bytes(),
        ]),
        None => joined(&[&guest.octets(), &destination.octets()]),
    };
    let set = if rule.service.is_some() { SERVICES } else { NETWORKS };
    Element { set, key: key(rule.network), last: Some(key(rule.last())), value: None }
}

/// An element in nft's language.
fn element_text(guest: Ipv4Addr, rule: &EgressRule) -> String {
    let EgressRule { network, prefix, service } = rule;
    let service = service.map(|(transport, port)| format!(" . {transport} . {port}")).unwrap_or_default();
    format!("{guest} . {network}/{prefix}{service}")
}

/// A guest and where it may go, from an element as `nft` shows it.
pub(crate) fn read_element(text: &str) -> Option<(Ipv4Addr, EgressRule)> {
    let mut parts = text.split(" . ").map(str::trim);
    let guest = parts.next()?.parse().ok()?;
    let network = parts.next()?;
    let rule = match (parts.next(), parts.next()) {
        (Some(transport), Some(port)) => format!("{network}:{port}/{transport}"),
        (None, _) => network.to_owned(),
        (Some(_), None) => return None,
    };
    Some((guest, rule.parse().ok()?))
}

/// What of `rules` a table shows where it is whole.
pub(crate) fn shown(rules: &[EgressRule]) -> Vec<EgressRule> {
    needed(rules).copied().collect()
}

/// The sets with what `ports` may reach, in nft's language.
pub(crate) fn sets_text(ports: &Ports) -> String {
    let (mut guests, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports.values() {
        let Some(rules) = &port.access.egress else { continue };
        let guest = port.identity.address;
        guests.push(guest.to_string());
        for rule in needed(rules) {
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
    set(RESTRICTED, "ipv4_addr", &guests)
        + &set(NETWORKS, "ipv4_addr . ipv4_addr; flags interval", &networks)
        + &set(SERVICES, "ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval", &services)
}

/// The rule that sends what restricted guests send to the chain of [`rules`].
pub(crate) fn entrance(bridge: &LinkName) -> String {
    format!(
        "iifname \"{bridge}\" oifname != \"{bridge}\" ip saddr @{RESTRICTED} goto egress comment \"restricted VMs\""
    )
}

/// What restricted guests may send.
pub(crate) fn rules() -> Vec<String> {
    vec![
        "ct direction reply ct state established accept".to_owned(),
        "ct state related accept".to_owned(),
        format!("ip saddr . ip daddr @{NETWORKS} accept"),
        format!("ip saddr . ip daddr . meta l4proto . th dport @{SERVICES} accept"),
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
        assert_eq!(shown(&given), rules(&["10.0.0.0/8", "10.1.0.0/16:80", "1.1.1.1:80"]));
    }

    #[test]
    fn elements_are_read_as_nft_shows_them() {
        let guest = Ipv4Addr::new(10, 100, 0, 2);
        for rule in rules(&["0.0.0.0/0", "10.0.0.0/8", "1.1.1.1:443", "10.0.0.0/8:53/udp"]) {
            assert_eq!(read_element(&element_text(guest, &rule)), Some((guest, rule)));
        }
        assert_eq!(
            read_element("10.100.0.2 . 1.1.1.1 . tcp . 443"),
            Some((guest, rules(&["1.1.1.1:443"])[0]))
        );
        for nonsense in ["", "10.100.0.2", "10.100.0.2 . x", "10.100.0.2 . 1.1.1.1 . tcp"] {
            assert_eq!(read_element(nonsense), None, "{nonsense:?}");
        }
    }
}

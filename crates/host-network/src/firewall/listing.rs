//! Our tables as `nft` shows them: rules, and apart from them the elements of sets and maps, which change with every VM.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use vm_model::{EgressRule, Ipv6Subnet, NetworkAccess, PortForward};

use super::GUARD;
use crate::bound_port::{Ports, Tables};
use crate::connections::IpVersion;
use crate::next_hops::NextHopSets;
use crate::port_filter::{GUEST_IPV4, GUEST_IPV6, GUEST_MACS, GUEST_TARGETS, IPV4, IPV6, MACS, PortIdentity};
use crate::{egress, forwards};

/// What stands before the elements of a set in a listing, and after them.
const ELEMENTS: (&str, &str) = ("elements = {", "}");

/// A listing, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    rules: String,
    /// By the name of the set or map.
    elements: BTreeMap<String, Vec<String>>,
}

impl Listing {
    pub(crate) fn new(text: &str) -> Self {
        let (start, end) = ELEMENTS;
        let (mut rules, mut elements) = (String::new(), BTreeMap::<String, Vec<String>>::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(start) {
            let (inside, after) = after.split_once(end).unwrap_or((after, ""));
            rules.push_str(before.trim_end());
            let listed = inside.split(',').map(|element| element.trim().to_owned());
            elements.entry(set_name(before).to_owned()).or_default().extend(listed);
            rest = after;
        }
        rules.push_str(rest);
        Self { rules, elements }
    }

    /// Everything but elements.
    pub(crate) fn rules(&self) -> &str {
        &self.rules
    }

    /// The links that rules guard, by name, or by index where the link was gone when they were listed.
    pub(crate) fn guarded(&self) -> BTreeSet<&str> {
        let guards = self.rules.lines().filter(|rule| rule.contains(GUARD));
        let links = guards.filter_map(|rule| rule.trim().strip_prefix("iif ")?.split_whitespace().next());
        links.map(|link| link.trim_matches('"')).collect()
    }

    /// Whether a rule guards the host's forwarding of IPv6.
    pub(crate) fn guards_ipv6(&self) -> bool {
        self.rules.lines().any(|rule| rule.trim().starts_with("iif != ") && rule.contains(GUARD))
    }

    fn of_set(&self, name: &str) -> impl Iterator<Item = &str> {
        self.elements.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whose wire the port of this name is.
    pub(crate) fn identity(&self, port: &str) -> Option<PortIdentity> {
        let value = |set| {
            self.of_set(set).find_map(|element| {
                let (name, value) = element.split_once(" . ")?;
                (name.trim_matches('"') == port).then_some(value)
            })
        };
        Some(PortIdentity { mac: value(MACS)?.parse().ok()?, address: value(IPV4)?.parse().ok()? })
    }

    /// What passes between the guest with this identity and the world beyond its network, in which it has an IPv6 address
    /// where that is `ipv6`.
    pub(crate) fn access(&self, guest: PortIdentity, ipv6: Option<Ipv6Subnet>) -> NetworkAccess {
        let forwards = self.forwards().filter(|(_, to)| *to == guest.address);
        let forwards = forwards.map(|(forward, _)| forward).collect();
        let own = addresses(guest, ipv6);
        let rules = || self.egress().filter(|(from, _)| own.contains(from)).map(|(_, rule)| rule).collect();
        NetworkAccess { forwards, egress: self.restricted().any(|other| own.contains(&other)).then(rules) }
    }

    fn restricted(&self) -> impl Iterator<Item = IpAddr> {
        let sets = [egress::IPV4, egress::IPV6];
        let elements = sets.into_iter().flat_map(|sets| self.of_set(sets.restricted));
        elements.filter_map(|element| element.parse().ok())
    }

    fn egress(&self) -> impl Iterator<Item = (IpAddr, EgressRule)> {
        let sets = [egress::IPV4, egress::IPV6];
        let elements =
            sets.into_iter().flat_map(|sets| self.of_set(sets.networks).chain(self.of_set(sets.services)));
        elements.filter_map(egress::read_element)
    }

    /// Which ports of the host lead to guests, each with the guest's address.
    pub(crate) fn forwards(&self) -> impl Iterator<Item = (PortForward, Ipv4Addr)> {
        let elements = self.of_set(forwards::ON_ONE).chain(self.of_set(forwards::ON_ALL));
        elements.filter_map(forwards::read_element)
    }

    /// Whether every port has there what it should have. `nft` shows a port by the name of its link, so only its addresses are
    /// looked at: no two ports have the same.
    pub(crate) fn shows_every_port(&self, ports: &Ports, tables: &Tables<'_>) -> bool {
        let ipv6 = tables.ipv6;
        let values = |set| -> BTreeSet<&str> {
            self.of_set(set).filter_map(|element| Some(element.split_once(" . ")?.1)).collect()
        };
        let (macs, ipv4, listed_ipv6) = (values(MACS), values(IPV4), values(IPV6));
        let versions = [IpVersion::V4, IpVersion::V6];
        let guests: HashSet<IpAddr> = versions
            .into_iter()
            .flat_map(|version| self.of_set(NextHopSets::of(version).guests))
            .filter_map(|element| element.parse().ok())
            .collect();
        let guest_macs: HashSet<&str> = self.of_set(GUEST_MACS).collect();
        let [claimed_ipv4, claimed_ipv6, claimed_targets]: [HashSet<&str>; 3] =
            [GUEST_IPV4, GUEST_IPV6, GUEST_TARGETS].map(|set| self.of_set(set).collect());
        let guards_claims = |identity: PortIdentity| {
            let mut of_ipv6 = identity.ipv6(ipv6);
            claimed_ipv4.contains(identity.address.to_string().as_str())
                && of_ipv6.all(|it| claimed_ipv6.contains(it.to_string().as_str()))
                && claimed_targets.len() == claimed_ipv6.len()
        };
        let forwards: HashSet<(PortForward, Ipv4Addr)> = self.forwards().collect();
        let restricted: HashSet<IpAddr> = self.restricted().collect();
        let egress: HashSet<(IpAddr, EgressRule)> = self.egress().collect();
        let shows_egress = |address, rules: &[EgressRule]| {
            let shown = egress::shown(rules, address);
            restricted.contains(&address) && shown.iter().all(|rule| egress.contains(&(address, *rule)))
        };
        ports.values().all(|port| {
            let PortIdentity { mac, address } = port.identity;
            let own = addresses(port.identity, ipv6);
            macs.contains(mac.to_string().as_str())
                && guest_macs.contains(mac.to_string().as_str())
                && ipv4.contains(address.to_string().as_str())
                && own.iter().all(|own| guests.contains(own))
                && (!tables.guards_claims || guards_claims(port.identity))
                && port.identity.ipv6(ipv6).all(|address| listed_ipv6.contains(address.to_string().as_str()))
                && port
                    .access
                    .egress
                    .as_ref()
                    .is_none_or(|rules| own.iter().all(|own| shows_egress(*own, rules)))
                && port.access.forwards.iter().all(|forward| forwards.contains(&(*forward, address)))
        })
    }
}

/// The addresses of a guest beyond its link.
fn addresses(guest: PortIdentity, ipv6: Option<Ipv6Subnet>) -> Vec<IpAddr> {
    let ipv6 = ipv6.map(|subnet| subnet.address_of(guest.mac).into());
    [guest.address.into()].into_iter().chain(ipv6).collect()
}

/// The set or map whose head `text` ends with.
fn set_name(text: &str) -> &str {
    let head = text.lines().rev().find_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("set ").or_else(|| line.strip_prefix("map "))
    });
    head.and_then(|head| head.split_whitespace().next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use vm_model::VmId;

    use super::*;
    use crate::bound_port::BoundPort;

    const LISTING: &str = "table ip p {\n\tset guests {\n\t\telements = { 10.100.0.2, 10.100.0.3 }\n\t}\n\tmap forwards_any {\n\t\ttype inet_proto . inet_service : ipv4_addr . \
        inet_service\n\t\telements = { tcp . 8080 : 10.100.0.2 . 80,\n\t\t\t     udp . 53 : 10.100.0.3 . 53 }\n\t}\n}\ntable \
        bridge p {\n\tset guest_macs {\n\t\telements = { 02:50:0a:64:00:02, 02:50:0a:64:00:03 }\n\t}\n\tset macs {\n\t\ttypeof iif . ether saddr\n\t\telements = { \"pw-web\" . 02:50:0a:64:00:02,\n\t\t\t     9 \
        . 02:50:0a:64:00:03 }\n\t}\n\tset ipv4 {\n\t\telements = { \"pw-web\" . 10.100.0.2 }\n\t}\n\tset ipv6 \
        {\n\t\telements = { \"pw-web\" . fe80::50:aff:fe64:2 }\n\t}\n\tchain c {\n\t\tdrop\n\t}\n}\n";

    const TABLES: Tables<'_> = Tables { name: "p", ipv6: None, guards_claims: false };

    fn port(last: u8, forwards: &[&str]) -> BoundPort {
        let identity = PortIdentity {
            mac: format!("02:50:0a:64:00:0{last}").parse().unwrap(),
            address: [10, 100, 0, last].into(),
        };
        let forwards = forwards.iter().map(|forward| forward.parse().unwrap()).collect();
        BoundPort { vm: VmId::new("web"), identity, access: NetworkAccess { forwards, egress: None } }
    }

    #[test]
    fn guarded_links_are_read_from_the_rules_that_guard_them() {
        let listing = Listing::new(
            "chain forward {\n\t\tiifname \"br-p\" drop comment \"other\"\n\t\tiif \"lan1\" oifname != \"br-p\" ct state \
             != { established, related } drop comment \"this host forwards for VMs only\"\n\t\tiif 9 oifname != \
             \"br-p\" drop comment \"this host forwards for VMs only\"\n\t}\n",
        );
        assert_eq!(listing.guarded(), BTreeSet::from(["lan1", "9"]));
    }

    #[test]
    fn rules_and_elements_are_told_apart() {
        let listing = Listing::new(LISTING);
        assert!(listing.rules().contains("drop") && listing.rules().contains("set ipv4"));
        assert!(!listing.rules().contains("pw-web"), "{}", listing.rules());
        assert_eq!(listing.identity("pw-web"), Some(port(2, &[]).identity));
        assert_eq!(listing.identity("9"), None, "it has no address there");
        assert_eq!(listing.access(port(2, &[]).identity, None), port(2, &["8080:80"]).access);
        let shows =
            |ports: &[(u32, BoundPort)]| listing.shows_every_port(&ports.iter().cloned().collect(), &TABLES);
        assert!(shows(&[(7, port(2, &[]))]) && shows(&[(7, port(2, &["8080:80"]))]));
        assert!(!shows(&[(7, port(2, &["8081:80"]))]));
        assert!(!shows(&[(7, port(2, &[])), (9, port(3, &[]))]));
        let guarding = Tables { guards_claims: true, ..TABLES };
        let ports = [(7, port(2, &[]))].into();
        assert!(!listing.shows_every_port(&ports, &guarding), "nobody is kept from claiming its address");
        let claims = "set guest_ipv4 {\n elements = { 10.100.0.2 }\n}\nset guest_ipv6 {\n elements = { \
                      fe80::50:aff:fe64:2 }\n}\nset guest_targets {\n elements = { \
                      0xfe8000000000000000500afffe640002 }\n}\n";
        assert!(Listing::new(&format!("{LISTING}{claims}")).shows_every_port(&ports, &guarding));
    }
}

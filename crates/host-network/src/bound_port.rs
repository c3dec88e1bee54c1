//! A port of the bridge as our rules know it: whose it is, and what passes between its guest and the world beyond.

use std::collections::BTreeMap;

use vm_model::{Ipv6Subnet, NetworkAccess, VmId};

use crate::connections::IpVersion;
use crate::next_hops::NextHopSets;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family};
use crate::port_filter::{self, GUEST_IPV4, GUEST_IPV6, GUEST_MACS, GUEST_TARGETS, Identities, PortIdentity};
use crate::{egress, forwards};

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundPort {
    /// The VM that it leads to.
    pub(crate) vm: VmId,
    /// Under which addresses its guest may send.
    pub(crate) identity: PortIdentity,
    /// What passes between the guest and what lies beyond its network.
    pub(crate) access: NetworkAccess,
}

/// Our tables, as far as elements of ports go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'name> {
    /// The name that all of them have.
    pub(crate) name: &'name str,
    /// The network of which guests have IPv6 addresses; there is a table of the family `ip6` where it is one.
    pub(crate) ipv6: Option<Ipv6Subnet>,
    /// Whether machines beyond an uplink are kept from claiming guests' addresses.
    pub(crate) guards_claims: bool,
}

/// The ports by the index of their link.
pub(crate) type Ports = BTreeMap<u32, BoundPort>;

/// The identities of ports.
pub(crate) fn identities(ports: &Ports) -> Identities {
    ports.iter().map(|(index, port)| (*index, port.identity)).collect()
}

impl BoundPort {
    /// The messages that enter into `tables` all that stands there for this port, which has the link index `index`.
    pub(crate) fn entry(&self, tables: &Tables<'_>, index: u32) -> Vec<Message> {
        // A guest is bound to what it is before anything leads to it.
        let identity = port_filter::elements::messages(tables, Change::Enter, index, self.identity);
        let presence = self.presence(tables);
        let presence = presence.iter().map(|(family, it)| it.message(*family, tables.name, Change::Enter));
        identity.into_iter().chain(presence).chain(self.access_messages(tables, Change::Enter)).collect()
    }

    /// The messages that take it out. What another of `ports` has as well stays.
    pub(crate) fn removal(&self, tables: &Tables<'_>, index: u32, ports: &Ports) -> Vec<Message> {
        let others = ports.iter().filter(|(other, _)| **other != index);
        let kept: Vec<_> = others.flat_map(|(_, other)| other.presence(tables)).collect();
        let presence = self.presence(tables).into_iter().filter(|element| !kept.contains(element));
        let presence = presence.map(|(family, it)| it.message(family, tables.name, Change::Remove));
        let identity = port_filter::elements::messages(tables, Change::Remove, index, self.identity);
        self.access_messages(tables, Change::Remove).into_iter().chain(presence).chain(identity).collect()
    }

    /// The elements that say which addresses guests have, whichever their port.
    fn presence(&self, tables: &Tables<'_>) -> Vec<(Family, Element)> {
        let PortIdentity { mac, address } = self.identity;
        let element = |set, key: &[u8]| Element { set, key: key.to_vec(), last: None, value: None };
        let ipv6 = tables.ipv6.map(|subnet| {
            let guest = subnet.address_of(mac);
            (Family::Ipv6, element(NextHopSets::of(IpVersion::V6).guests, &guest.octets()))
        });
        let ipv4 = (Family::Ipv4, element(NextHopSets::of(IpVersion::V4).guests, &address.octets()));
        let mut presence = vec![(Family::Bridge, element(GUEST_MACS, &mac.octets())), ipv4];
        presence.extend(ipv6);
        if tables.guards_claims {
            presence.push((Family::Bridge, element(GUEST_IPV4, &address.octets())));
            for address in self.identity.ipv6(tables.ipv6) {
                presence.push((Family::Bridge, element(GUEST_IPV6, &address.octets())));
                presence.push((Family::Bridge, element(GUEST_TARGETS, &address.octets())));
            }
        }
        presence
    }

    /// The messages that make `change` of what stands there under its guest's addresses.
    pub(crate) fn access_messages(&self, tables: &Tables<'_>, change: Change) -> Vec<Message> {
        let (guest, table) = (self.identity.address, tables.name);
        let rules = self.access.egress.as_deref();
        let mut messages = egress::messages(table, change, guest.into(), rules);
        if let Some(subnet) = tables.ipv6 {
            let guest = subnet.address_of(self.identity.mac);
            messages.extend(egress::messages(table, change, guest.into(), rules));
        }
        messages.extend(forwards::messages(table, change, guest, &self.access.forwards));
        messages
    }
}

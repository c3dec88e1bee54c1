//! The ports that a start finds on its bridge: those of interfaces that were named as kept, and those that nobody has named.

use std::collections::HashMap;

use vm_model::Ipv6Subnet;

use super::UnknownNic;
use crate::bound_port::{BoundPort, Ports};
use crate::firewall::Listing;
use crate::host::{Attached, Interface};
use crate::names::tap_owner;
use crate::netlink::Link;
use crate::port_filter::PortIdentity;

/// The ports of the TAPs that were taken over.
pub(super) fn ports(attached: &HashMap<Interface, Attached>) -> Ports {
    attached.values().filter_map(Attached::tap).map(|tap| (tap.index, tap.bound_port())).collect()
}

/// The TAPs of ours that nobody has named, with the addresses that the tables of an earlier run bind them to.
pub(crate) fn unknown_nics(
    named: &Ports,
    links: &[Link],
    listing: Option<&Listing>,
) -> Vec<(u32, UnknownNic)> {
    let Some(listing) = listing else { return Vec::new() };
    let unnamed = links.iter().filter(|link| !named.contains_key(&link.index));
    let bound = unnamed.filter_map(|link| {
        let (vm, nic) = tap_owner(link.alias.as_deref()?)?;
        let PortIdentity { mac, address } = listing.identity(&link.name)?;
        Some((link.index, UnknownNic { vm, nic: nic.to_owned(), tap: link.name.clone(), mac, address }))
    });
    bound.collect()
}

/// As well those of TAPs that nobody has named yet: their VMs run on, and stay bound to what they were.
pub(super) fn with_unknown(
    mut ports: Ports,
    unknown: &[(u32, UnknownNic)],
    listing: Option<&Listing>,
    ipv6: Option<Ipv6Subnet>,
) -> Ports {
    let bound = unknown.iter().map(|(index, UnknownNic { vm, mac, address, .. })| {
        let identity = PortIdentity { mac: *mac, address: *address };
        let access = listing.map(|listing| listing.access(identity, ipv6)).unwrap_or_default();
        (*index, BoundPort { vm: vm.clone(), identity, access })
    });
    ports.extend(bound);
    ports
}

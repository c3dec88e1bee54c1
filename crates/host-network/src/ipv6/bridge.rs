//! The host's own IPv6 addresses on the bridge. They are added by us and without a look for duplicates, so that they can be
//! used at once: guests are bound to others.

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use vm_model::{Ipv6Subnet, MacAddress, link_local};

use crate::bridge::Observed;

/// The router's addresses: the one in the network, and the link-local one that advertisements come from.
pub(crate) fn own_addresses(subnet: Ipv6Subnet, bridge: MacAddress) -> [Ipv6Network; 2] {
    let of = |address: Ipv6Addr| {
        Ipv6Network::new(address, subnet.prefix_length()).expect("64 bits are no more than an address has")
    };
    [of(subnet.gateway()), of(link_local(bridge))]
}

/// Those that the bridge with the index `bridge` does not have, and its hardware address; `None` for one that is not there.
pub(crate) fn missing_addresses(
    subnet: Ipv6Subnet,
    bridge: u32,
    observed: &Observed,
) -> Option<(MacAddress, Vec<Ipv6Network>)> {
    let mac = observed.links.iter().find(|link| link.index == bridge)?.mac?;
    let has =
        |address: &Ipv6Network| observed.ipv6.iter().any(|own| own.link == bridge && own.address == *address);
    Some((mac, own_addresses(subnet, mac).into_iter().filter(|address| !has(address)).collect()))
}

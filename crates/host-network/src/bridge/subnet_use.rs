//! Who else uses addresses of the VMs' subnet on this host, and what that means for VMs.
//!
//! The bridge's own route is as long as the subnet's prefix. A route to a larger network (a company's `10.0.0.0/8`, or the
//! `0.0.0.0/1` of a VPN) is shorter and never chosen for a VM, so it does no harm. One to the same network or a part of it
//! takes packets away from VMs; and where the network of another link's address overlaps, one of both is not reached.

use std::fmt;

use ipnetwork::Ipv4Network;

use super::{BridgeProblem, Observed};
use crate::NetworkConfig;

/// Who else uses addresses of the subnet on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubnetUse {
    /// A link has an address whose network overlaps.
    Address {
        /// The link.
        link: String,
        /// Its address, with the prefix length.
        address: Ipv4Network,
    },
    /// A route leads elsewhere.
    Route {
        /// Where to.
        destination: Ipv4Network,
        /// Through which link.
        link: String,
    },
}

impl SubnetUse {
    /// A sentence that says who uses the network `subnet` and what of it does not work while VMs are on it.
    pub(crate) fn meaning(&self, subnet: Ipv4Network) -> String {
        let effect = match self {
            Self::Address { link, address } if address.prefix() < subnet.prefix() => {
                format!("machines behind {link} with addresses of {subnet} are not reached from this host")
            }
            Self::Address { address, .. } | Self::Route { destination: address, .. } => {
                format!("VMs with addresses of {} may not be reached, nor get answers", network_of(*address))
            }
        };
        format!("the network {subnet} of VMs is in use elsewhere on this host: {self}; {effect}")
    }
}

impl fmt::Display for SubnetUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { link, address } => write!(formatter, "link {link} has the address {address}"),
            Self::Route { destination, link } => {
                write!(formatter, "a route to {destination} leads through {link}")
            }
        }
    }
}

/// The network that an address with a prefix length is of.
fn network_of(address: Ipv4Network) -> Ipv4Network {
    Ipv4Network::new(address.network(), address.prefix()).unwrap_or(address)
}

/// Who uses addresses of `subnet` on another link than `bridge`. The route that comes with an address is not named beside it.
pub(crate) fn find_uses(subnet: Ipv4Network, bridge: Option<u32>, observed: &Observed) -> Vec<SubnetUse> {
    let others = observed.addresses.iter().filter(|assignment| Some(assignment.link) != bridge);
    let overlapping = others.filter(|assignment| assignment.address.overlaps(subnet));
    let addresses: Vec<(u32, Ipv4Network)> =
        overlapping.map(|assignment| (assignment.link, assignment.address)).collect();
    let comes_with_address = |destination: Ipv4Network, links: &[u32]| {
        let is_its_network =
            |(link, address): &(u32, Ipv4Network)| links == [*link] && network_of(*address) == destination;
        addresses.iter().any(is_its_network)
    };
    let routes = observed.routes.iter().filter(|route| {
        let is_bridge = bridge.is_some_and(|bridge| route.links == [bridge]);
        !is_bridge
            && route.destination.is_subnet_of(subnet)
            && !comes_with_address(route.destination, &route.links)
    });
    let routes = routes.map(|route| SubnetUse::Route {
        destination: route.destination,
        link: match route.links[..] {
            [link] => name_of(observed, link),
            _ => "several links".to_owned(),
        },
    });
    let addresses = addresses
        .iter()
        .map(|(link, address)| SubnetUse::Address { link: name_of(observed, *link), address: *address });
    addresses.chain(routes).collect()
}

/// That another link than `bridge` has an address of the VMs' IPv6 network.
pub(crate) fn find_ipv6_use(
    config: &NetworkConfig,
    bridge: Option<u32>,
    observed: &Observed,
) -> Option<BridgeProblem> {
    let subnet = config.ipv6?;
    let others = observed.ipv6.iter().filter(|ipv6| Some(ipv6.link) != bridge);
    let address = others.map(|ipv6| ipv6.address).find(|address| subnet.contains(address.ip()))?;
    Some(BridgeProblem::Ipv6InUse { subnet, address })
}

fn name_of(observed: &Observed, index: u32) -> String {
    let link = observed.links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("number {index}"), |link| link.name.clone())
}

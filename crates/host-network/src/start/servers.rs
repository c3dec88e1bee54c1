//! The servers on the bridge's addresses beside DHCP's: names, and IPv6. What guests are told of name servers.

use std::fs;
use std::net::Ipv4Addr;

use vm_model::{Ipv6Subnet, MacAddress};

use crate::config::{MOST_DNS_SERVERS, reachable_name_servers};
use crate::dhcp::SharedBindings;
use crate::dns::{NameServer, NameServerError, Zone};
use crate::ipv6::{Ipv6Facts, Ipv6Server};
use crate::{DhcpError, DnsServers, Egress, NetworkConfig};

/// Where a host's name servers stand. Where the first names only a stub on loopback, the second has the true ones.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Starts our name server where there is to be one. It has nobody to ask where the network is cut off: questions would be a
/// way out.
pub(super) async fn start_names(
    config: &NetworkConfig,
    bindings: &SharedBindings,
) -> Result<Option<NameServer>, NameServerError> {
    let Some(domain) = config.names.clone() else { return Ok(None) };
    let NetworkConfig { gateway, ipv6, between_vms, .. } = *config;
    let peers = config.peer_subnets.clone();
    let zone = Zone { domain, subnet: config.network(), gateway, ipv6, peers, between_vms };
    let nobody = DnsServers::List(Vec::new());
    let servers = match config.egress {
        Egress::Masquerade | Egress::Routed => &config.dns,
        Egress::Isolated => &nobody,
    };
    NameServer::start(zone, bindings.clone(), servers).await.map(Some)
}

/// The name servers that guests are told: ours first, where it runs. The host's follow, for the time in which VMs run on and
/// no worker does.
pub(super) fn told_servers(config: &NetworkConfig, answers_names: bool) -> Vec<Ipv4Addr> {
    let others = match (config.egress, answers_names) {
        (Egress::Isolated, true) => Vec::new(),
        (Egress::Isolated, false) | (Egress::Masquerade | Egress::Routed, _) => name_servers(&config.dns),
    };
    let own = answers_names.then_some(config.gateway);
    own.into_iter().chain(others).take(MOST_DNS_SERVERS).collect()
}

/// Starts what serves guests of IPv6 on the bridge with the index `bridge`: the network, and the bridge's hardware address.
/// They are told of our name server where that runs.
pub(super) fn start_ipv6(
    config: &NetworkConfig,
    bridge: u32,
    (subnet, router): (Ipv6Subnet, MacAddress),
    (bindings, names): (&SharedBindings, Option<&NameServer>),
) -> Result<(Ipv6Server, Ipv6Facts), DhcpError> {
    let domain = config.names.clone().filter(|_| names.is_some());
    let facts = Ipv6Facts { subnet, router, mtu: config.mtu, egress: config.egress, domain };
    Ok((Ipv6Server::start(bridge, facts.clone(), bindings.clone())?, facts))
}

fn name_servers(wanted: &DnsServers) -> Vec<Ipv4Addr> {
    match wanted {
        DnsServers::List(servers) => servers.clone(),
        DnsServers::Host => RESOLVER_FILES
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .map(|text| reachable_name_servers(&text))
            .find(|servers| !servers.is_empty())
            .unwrap_or_default(),
    }
}

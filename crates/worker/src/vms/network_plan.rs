//! The networks that settings describe, and what no two of them may have in common. Nothing of the host is looked at.

use std::borrow::Cow;
use std::path::PathBuf;

use host_network::{
    DnsServers, Egress, GuestAddresses, LinkName, NetworkConfig, RouterAdvice, Uplink, VlanId,
};
use ipam::{AddressRange, Pool, PoolError};
use ipnetwork::{IpNetwork, Ipv4Network};
use vm_model::NetworkName;

use super::checks::refused;
use super::{NetworkAddressTranslation, NetworkSettings, UplinkSettings, VmManagerConfig, VmManagerError};
use crate::records::{NotedWays, network_directory};

/// A network as it is to be on this host.
#[derive(Clone, Debug)]
pub(super) struct PlannedNetwork {
    pub(super) name: NetworkName,
    /// Its addresses, of which none is given yet.
    pub(super) pool: Pool,
    pub(super) config: NetworkConfig,
    /// What it is made from.
    settings: NetworkSettings,
    /// Where its leases and the note of what it changes on the host lie.
    pub(super) directory: PathBuf,
}

impl PlannedNetwork {
    /// The network that its VMs' addresses are of.
    pub(super) fn subnet(&self) -> Ipv4Network {
        self.pool.subnet()
    }

    /// By which settings what its VMs send leaves it, and who gives them addresses.
    pub(super) fn ways(&self) -> NotedWays {
        let NetworkSettings { nat, host_address, router, uplink, addresses, .. } = &self.settings;
        NotedWays {
            nat: *nat == NetworkAddressTranslation::Masquerade,
            host_address: *host_address,
            router: *router,
            uplink: uplink.as_ref().map(|uplink| uplink.link.clone()),
            vlan: uplink.as_ref().and_then(|uplink| Some(uplink.vlan?.get())),
            external: *addresses == GuestAddresses::External,
        }
    }

    /// The same network, but for `ways`. `None` where they do not go with the rest of its settings.
    pub(super) fn with_ways(&self, ways: &NotedWays) -> Option<NetworkConfig> {
        let NotedWays { nat, host_address, router, uplink, vlan, external } = ways.clone();
        let vlan = vlan.and_then(VlanId::new);
        let settings = NetworkSettings {
            nat: if nat { NetworkAddressTranslation::Masquerade } else { NetworkAddressTranslation::Off },
            host_address,
            router,
            uplink: uplink.map(|link| UplinkSettings { link, vlan }),
            addresses: if external { GuestAddresses::External } else { GuestAddresses::Ours },
            ..self.settings.clone()
        };
        let planned = plan_network(self.name.clone(), settings, self.directory.clone()).ok()?;
        let NetworkConfig { connections, peers, peer_subnets, .. } = self.config.clone();
        Some(NetworkConfig { connections, peers, peer_subnets, ..planned.config })
    }
}

/// The networks that `config` describes, the default one first.
///
/// # Errors
/// A setting cannot be used, or two networks would be in each other's way; the settings of both are named.
pub(super) fn plan_networks(config: &VmManagerConfig) -> Result<Vec<PlannedNetwork>, VmManagerError> {
    let mut planned: Vec<PlannedNetwork> = Vec::new();
    for (place, (name, settings)) in config.all_networks().into_iter().enumerate() {
        if place > 0 && name.is_default() {
            let expected = "another name is accepted: \"default\" is the network of network_bridge";
            return Err(refused("networks", name.as_str(), expected));
        }
        let directory = network_directory(config.state_dir(), &name);
        let mut network = plan_network(name, settings, directory)?;
        network.config.connections = config.connections;
        if let Some(other) = planned.iter().find(|other| other.config.bridge == network.config.bridge) {
            let expected =
                format!("it is the bridge of {} too; each network needs its own", bridge_key(&other.name));
            return Err(refused(bridge_key(&network.name), network.config.bridge.as_str(), expected));
        }
        let has_same_uplink = |other: &&PlannedNetwork| {
            other.config.uplink.is_some() && other.config.uplink == network.config.uplink
        };
        if let (Some(other), Some(uplink)) = (planned.iter().find(has_same_uplink), &network.config.uplink) {
            let expected = format!(
                "it is that of {} too; each network needs its own, or a VLAN of its own on it",
                uplink_key(&other.name)
            );
            return Err(refused(uplink_key(&network.name), uplink.to_string(), expected));
        }
        if let Some(other) = planned.iter().find(|other| other.subnet().overlaps(network.subnet())) {
            let expected = format!(
                "it overlaps with {} = \"{}\"; each network needs addresses of its own",
                subnet_key(&other.name),
                other.subnet()
            );
            return Err(refused(subnet_key(&network.name), network.subnet().to_string(), expected));
        }
        let has_same_ipv6 =
            |other: &&PlannedNetwork| other.config.ipv6.is_some() && other.config.ipv6 == network.config.ipv6;
        if let (Some(other), Some(ipv6)) = (planned.iter().find(has_same_ipv6), network.config.ipv6) {
            let expected = format!(
                "it is that of {} too; each network needs addresses of its own",
                ipv6_key(&other.name)
            );
            return Err(refused(ipv6_key(&network.name), ipv6.to_string(), expected));
        }
        planned.push(network);
    }
    let bridges: Vec<LinkName> = planned.iter().map(|network| network.config.bridge.clone()).collect();
    let subnets: Vec<(LinkName, Vec<IpNetwork>)> =
        planned.iter().map(|network| (network.config.bridge.clone(), subnets(&network.config))).collect();
    for PlannedNetwork { config, .. } in &mut planned {
        let others = subnets.iter().filter(|(bridge, _)| *bridge != config.bridge);
        config.peer_subnets = others.flat_map(|(_, subnets)| subnets.clone()).collect();
        config.peers = bridges.iter().filter(|bridge| **bridge != config.bridge).cloned().collect();
    }
    Ok(planned)
}

/// The addresses of a network, of IPv4 and IPv6.
fn subnets(config: &NetworkConfig) -> Vec<IpNetwork> {
    let ipv6 = config.ipv6.and_then(|subnet| IpNetwork::new(subnet.gateway().into(), 64).ok());
    [IpNetwork::V4(config.subnet)].into_iter().chain(ipv6).collect()
}

fn plan_network(
    name: NetworkName,
    settings: NetworkSettings,
    directory: PathBuf,
) -> Result<PlannedNetwork, VmManagerError> {
    let bridge = LinkName::parse(&settings.bridge)
        .map_err(|problem| refused(bridge_key(&name), settings.bridge.as_str(), problem.to_string()))?;
    let network: Ipv4Network = settings.subnet.parse().map_err(|_| {
        let expected = "an IPv4 network like 10.100.0.0/16 is accepted";
        refused(subnet_key(&name), settings.subnet.as_str(), expected)
    })?;
    let pool = pool_of(&name, network, &settings)?;
    let external = check_external(&name, &settings)?;
    let uplink = settings.uplink.as_ref().map(|uplink| plan_uplink(&name, uplink)).transpose()?;
    let egress = match (settings.nat, external) {
        (NetworkAddressTranslation::Masquerade, GuestAddresses::Ours) => Egress::Masquerade,
        (NetworkAddressTranslation::Off, _) | (_, GuestAddresses::External) => Egress::Isolated,
    };
    // A guest with an interface in another network has its way out, and its name servers, there.
    let (router, dns) = match (settings.router, egress) {
        (Some(router), _) => (RouterAdvice::Other(router), DnsServers::Host),
        (None, Egress::Isolated) if !name.is_default() => {
            (RouterAdvice::Untold, DnsServers::List(Vec::new()))
        }
        (None, Egress::Isolated | Egress::Masquerade | Egress::Routed) => {
            (RouterAdvice::Told, DnsServers::Host)
        }
    };
    let defaults = NetworkConfig::new(bridge, network);
    let gateway = settings.host_address.unwrap_or(defaults.gateway);
    if settings.router == Some(gateway) {
        let expected = format!(
            "another address than this host's own there is accepted, which is {gateway} by networks.{name}.host_address"
        );
        return Err(refused(further_key(&name, "router"), gateway.to_string(), expected));
    }
    let config = NetworkConfig {
        gateway,
        ipv6: settings.ipv6_subnet,
        egress,
        between_vms: settings.between_vms,
        host_services: settings.host_services.clone(),
        names: settings.names.clone(),
        router,
        dns,
        uplink,
        addresses: settings.addresses,
        state_dir: Some(directory.clone()),
        ..defaults
    };
    Ok(PlannedNetwork { name, pool, config, settings, directory })
}

/// The addresses of a network. This host's and its router's are no VM's by themselves.
fn pool_of(
    name: &NetworkName,
    network: Ipv4Network,
    settings: &NetworkSettings,
) -> Result<Pool, VmManagerError> {
    let mut reserved = settings.reserved.clone();
    for (key, address) in [("host_address", settings.host_address), ("router", settings.router)] {
        let Some(address) = address else { continue };
        let is_host =
            network.contains(address) && address != network.network() && address != network.broadcast();
        let range = address.to_string().parse::<AddressRange>().ok().filter(|_| is_host);
        let expected = || format!("a host address of the network {network} is accepted");
        reserved.push(range.ok_or_else(|| refused(further_key(name, key), address.to_string(), expected()))?);
    }
    Pool::with_reserved(network, &reserved).map_err(|problem| match &problem {
        PoolError::ReservedOutside { range, .. } => {
            refused(reserved_key(name), range.to_string(), problem.to_string())
        }
        PoolError::Size { .. } | PoolError::HostBits { .. } | PoolError::NotUnicast { .. } => {
            refused(subnet_key(name), settings.subnet.clone(), problem.to_string())
        }
    })
}

/// Refuses what needs an address of this host where others give addresses.
fn check_external(name: &NetworkName, settings: &NetworkSettings) -> Result<GuestAddresses, VmManagerError> {
    let needed = [
        ("host_address", settings.host_address.map(|address| address.to_string())),
        ("router", settings.router.map(|address| address.to_string())),
        ("ipv6_subnet", settings.ipv6_subnet.map(|subnet| subnet.to_string())),
        ("dns", settings.names.as_ref().map(|_| "true".to_owned())),
        ("host_services", (!settings.host_services.is_empty()).then(|| "...".to_owned())),
    ];
    let first = needed.into_iter().find_map(|(key, value)| Some((key, value?)));
    match (settings.addresses, first) {
        (GuestAddresses::External, Some((key, value))) => {
            let expected =
                "none is accepted where addresses = \"external\": this host has no address in that network";
            Err(refused(further_key(name, key), value, expected))
        }
        (GuestAddresses::External | GuestAddresses::Ours, _) => Ok(settings.addresses),
    }
}

fn plan_uplink(name: &NetworkName, settings: &UplinkSettings) -> Result<Uplink, VmManagerError> {
    if let (true, Some(vlan)) = (settings.link.is_empty(), settings.vlan) {
        let expected = format!("it is accepted with networks.{name}.uplink, the interface whose VLAN it is");
        return Err(refused(further_key(name, "vlan"), vlan.get().to_string(), expected));
    }
    let link = LinkName::parse(&settings.link)
        .map_err(|problem| refused(uplink_key(name), settings.link.as_str(), problem.to_string()))?;
    Ok(Uplink { link, vlan: settings.vlan })
}

/// The setting that says which interface is a network's uplink.
fn uplink_key(name: &NetworkName) -> Cow<'static, str> {
    further_key(name, "uplink")
}

/// A setting that only further networks have.
fn further_key(name: &NetworkName, key: &str) -> Cow<'static, str> {
    format!("networks.{name}.{key}").into()
}

/// The setting that says which bridge a network has.
pub(super) fn bridge_key(name: &NetworkName) -> Cow<'static, str> {
    key(name, "network_bridge", "bridge")
}

/// The setting that says which addresses a network has.
fn subnet_key(name: &NetworkName) -> Cow<'static, str> {
    key(name, "vm_subnet_base", "subnet")
}

/// The setting that says which IPv6 addresses a network has.
fn ipv6_key(name: &NetworkName) -> Cow<'static, str> {
    key(name, "ipv6_subnet", "ipv6_subnet")
}

/// The setting that says which of its addresses no VM gets by itself.
fn reserved_key(name: &NetworkName) -> Cow<'static, str> {
    key(name, "reserved_addresses", "reserved")
}

fn key(name: &NetworkName, of_default: &'static str, of_others: &str) -> Cow<'static, str> {
    if name.is_default() { of_default.into() } else { format!("networks.{name}.{of_others}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bridge: &str, subnet: &str) -> NetworkSettings {
        NetworkSettings { nat: NetworkAddressTranslation::Off, ..NetworkSettings::new(bridge, subnet) }
    }

    fn plan(networks: &[(&str, &str, &str)]) -> Result<Vec<PlannedNetwork>, String> {
        let named = networks.iter().map(|(name, bridge, subnet)| {
            (NetworkName::parse(name).expect("a name"), settings(bridge, subnet))
        });
        let config = VmManagerConfig { networks: named.collect(), ..VmManagerConfig::default() };
        plan_networks(&config).map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_network_knows_the_bridges_of_the_others_and_has_a_directory() {
        let planned = plan(&[("storage", "br-storage", "10.101.0.0/16")]).expect("sound");
        let [default, storage] = planned.as_slice() else { panic!("{planned:?}") };
        assert!(default.name.is_default());
        assert_eq!(default.config.peers, std::slice::from_ref(&storage.config.bridge));
        assert_eq!(storage.config.peers, std::slice::from_ref(&default.config.bridge));
        assert_eq!(default.directory, PathBuf::from("/var/lib/procurator"));
        assert_eq!(storage.directory, PathBuf::from("/var/lib/procurator/networks/storage"));
        assert_eq!(default.config.peer_subnets, [IpNetwork::V4(storage.subnet())]);
        assert_eq!(storage.config.router, RouterAdvice::Untold);
    }

    #[test]
    fn networks_in_each_others_way_are_refused_by_the_names_of_both_settings() {
        let refused = |networks: &[(&str, &str, &str)]| plan(networks).expect_err("refused");
        assert_eq!(
            refused(&[("storage", "br-procurator", "10.101.0.0/16")]),
            "invalid setting networks.storage.bridge = \"br-procurator\": it is the bridge of network_bridge too; each \
             network needs its own"
        );
        assert_eq!(
            refused(&[("a", "br-a", "10.101.0.0/16"), ("b", "br-b", "10.101.7.0/24")]),
            "invalid setting networks.b.subnet = \"10.101.7.0/24\": it overlaps with networks.a.subnet = \
             \"10.101.0.0/16\"; each network needs addresses of its own"
        );
        assert!(refused(&[("default", "br-a", "10.101.0.0/16")]).contains("another name is accepted"));
        assert!(refused(&[("a", "br-a", "10.101.0.0")]).contains("networks.a.subnet"));
        assert!(refused(&[("a", "br/a", "10.101.0.0/16")]).contains("networks.a.bridge"));
    }

    fn planned(change: fn(&mut NetworkSettings)) -> Result<NetworkConfig, String> {
        let mut lan = settings("br-lan", "10.101.0.0/16");
        change(&mut lan);
        let name = NetworkName::parse("lan").expect("a name");
        let config = VmManagerConfig { networks: [(name, lan)].into(), ..VmManagerConfig::default() };
        let mut planned = plan_networks(&config).map_err(|problem| problem.to_string())?;
        Ok(planned.pop().expect("two").config)
    }

    fn eth1(vlan: Option<u16>) -> Option<UplinkSettings> {
        Some(UplinkSettings { link: "eth1".to_owned(), vlan: vlan.and_then(VlanId::new) })
    }

    #[test]
    fn a_network_has_its_uplink_its_own_address_and_the_router_beyond() {
        let lan = planned(|lan| {
            lan.uplink = eth1(Some(100));
            lan.host_address = Some([10, 101, 0, 7].into());
            lan.router = Some([10, 101, 0, 1].into());
        })
        .expect("sound");
        assert_eq!(lan.uplink.map(|uplink| uplink.to_string()).as_deref(), Some("VLAN 100 of eth1"));
        assert_eq!(lan.gateway, std::net::Ipv4Addr::new(10, 101, 0, 7));
        assert_eq!(lan.router, RouterAdvice::Other([10, 101, 0, 1].into()));
        let external = planned(|lan| lan.addresses = GuestAddresses::External).expect("sound");
        assert_eq!((external.egress, external.router), (Egress::Isolated, RouterAdvice::Untold));
    }

    #[test]
    fn a_network_can_be_had_as_it_was_before_in_what_leads_out_of_it() {
        let mut lan = settings("br-lan", "10.101.0.0/16");
        lan.uplink = eth1(Some(100));
        (lan.host_address, lan.router) = (Some([10, 101, 0, 7].into()), Some([10, 101, 0, 1].into()));
        let networks = [(NetworkName::parse("lan").expect("a name"), lan)];
        let config = VmManagerConfig { networks: networks.into(), ..VmManagerConfig::default() };
        let planned = plan_networks(&config).expect("sound").pop().expect("two");
        assert_eq!(planned.with_ways(&planned.ways()), Some(planned.config.clone()));
        let before = NotedWays { nat: true, ..NotedWays::default() };
        let held = planned.with_ways(&before).expect("it was so");
        assert_eq!((held.uplink, held.egress, held.router), (None, Egress::Masquerade, RouterAdvice::Told));
        assert_eq!(held.gateway, std::net::Ipv4Addr::new(10, 101, 0, 1));
        assert_eq!(held.peer_subnets, planned.config.peer_subnets);
        let elsewhere = NotedWays { host_address: Some([10, 99, 0, 1].into()), ..before };
        assert_eq!(planned.with_ways(&elsewhere), None, "it has other addresses now");
    }

    #[test]
    fn what_contradicts_an_uplink_is_refused_by_its_key() {
        let refusal = |change| planned(change).expect_err("refused");
        let outside = refusal(|lan| lan.host_address = Some([10, 102, 0, 7].into()));
        assert!(
            outside.starts_with("invalid setting networks.lan.host_address = \"10.102.0.7\""),
            "{outside}"
        );
        // The first address of a network is this host's where no other is said, and mostly the router's.
        let taken = refusal(|lan| lan.router = Some([10, 101, 0, 1].into()));
        assert!(taken.contains("networks.lan.router") && taken.contains("host_address"), "{taken}");
        let of_nothing = refusal(|lan| {
            lan.uplink = Some(UplinkSettings { link: String::new(), vlan: VlanId::new(100) });
        });
        assert!(of_nothing.contains("networks.lan.vlan") && of_nothing.contains("uplink"), "{of_nothing}");
        let external = refusal(|lan| {
            lan.addresses = GuestAddresses::External;
            lan.router = Some([10, 101, 0, 1].into());
        });
        assert!(external.contains("networks.lan.router") && external.contains("external"), "{external}");
        let two = |vlan| {
            let network = |bridge: &str, subnet: &str, vlan| {
                let name = NetworkName::parse(bridge).expect("a name");
                (name, NetworkSettings { uplink: eth1(vlan), ..settings(bridge, subnet) })
            };
            let networks =
                [network("br-a", "10.101.0.0/16", Some(100)), network("br-b", "10.102.0.0/16", vlan)];
            let config = VmManagerConfig { networks: networks.into(), ..VmManagerConfig::default() };
            plan_networks(&config).map(drop).map_err(|problem| problem.to_string())
        };
        let same = two(Some(100)).expect_err("refused");
        assert!(
            same.contains("networks.br-b.uplink") && same.contains("that of networks.br-a.uplink"),
            "{same}"
        );
        assert_eq!(two(Some(200)), Ok(()));
    }
}

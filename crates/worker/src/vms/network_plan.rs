//! The networks that settings describe, and what no two of them may have in common. Nothing of the host is looked at.

use std::borrow::Cow;
use std::path::PathBuf;

use host_network::{DnsServers, Egress, LinkName, NetworkConfig, RouterAdvice};
use ipam::{Pool, PoolError};
use ipnetwork::Ipv4Network;
use vm_model::NetworkName;

use super::checks::refused;
use super::{NetworkAddressTranslation, NetworkSettings, VmManagerConfig, VmManagerError};
use crate::records::network_directory;

/// A network as it is to be on this host.
#[derive(Clone, Debug)]
pub(super) struct PlannedNetwork {
    pub(super) name: NetworkName,
    /// Its addresses, of which none is given yet.
    pub(super) pool: Pool,
    pub(super) config: NetworkConfig,
    /// Where its leases and the note of what it changes on the host lie.
    pub(super) directory: PathBuf,
}

impl PlannedNetwork {
    /// The network that its VMs' addresses are of.
    pub(super) fn subnet(&self) -> Ipv4Network {
        self.pool.subnet()
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
    for PlannedNetwork { config, .. } in &mut planned {
        config.peers = bridges.iter().filter(|bridge| **bridge != config.bridge).cloned().collect();
    }
    Ok(planned)
}

fn plan_network(
    name: NetworkName,
    settings: NetworkSettings,
    directory: PathBuf,
) -> Result<PlannedNetwork, VmManagerError> {
    let NetworkSettings { bridge, subnet, ipv6_subnet, reserved, nat, between_vms, host_services, names } =
        settings;
    let bridge = LinkName::parse(&bridge)
        .map_err(|problem| refused(bridge_key(&name), bridge, problem.to_string()))?;
    let network: Ipv4Network = subnet.parse().map_err(|_| {
        let expected = "an IPv4 network like 10.100.0.0/16 is accepted";
        refused(subnet_key(&name), subnet.as_str(), expected)
    })?;
    let pool = Pool::with_reserved(network, &reserved).map_err(|problem| match &problem {
        PoolError::ReservedOutside { range, .. } => {
            refused(reserved_key(&name), range.to_string(), problem.to_string())
        }
        PoolError::Size { .. } | PoolError::HostBits { .. } | PoolError::NotUnicast { .. } => {
            refused(subnet_key(&name), subnet, problem.to_string())
        }
    })?;
    let egress = match nat {
        NetworkAddressTranslation::Masquerade => Egress::Masquerade,
        NetworkAddressTranslation::Off => Egress::Isolated,
    };
    // A guest with an interface in another network has its way out, and its name servers, there.
    let (router, dns) = match nat {
        NetworkAddressTranslation::Off if !name.is_default() => {
            (RouterAdvice::Untold, DnsServers::List(Vec::new()))
        }
        NetworkAddressTranslation::Off | NetworkAddressTranslation::Masquerade => {
            (RouterAdvice::Told, DnsServers::Host)
        }
    };
    let state_dir = Some(directory.clone());
    let config = NetworkConfig {
        ipv6: ipv6_subnet,
        egress,
        between_vms,
        host_services,
        names,
        router,
        dns,
        state_dir,
        ..NetworkConfig::new(bridge, network)
    };
    Ok(PlannedNetwork { name, pool, config, directory })
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
        NetworkSettings {
            bridge: bridge.to_owned(),
            subnet: subnet.to_owned(),
            ipv6_subnet: None,
            reserved: Vec::new(),
            nat: NetworkAddressTranslation::Off,
            between_vms: Default::default(),
            host_services: Vec::new(),
            names: None,
        }
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
}

//! The tables `[networks.NAME]` of the configuration file: networks beside the one of `[network]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use host_network::{BetweenVms, Domain, GuestAddresses, HostService, VlanId};
use ipam::AddressRange;
use serde::{Deserialize, Deserializer};
use vm_model::Ipv6Subnet;
use worker::vms::{NetworkAddressTranslation, NetworkName, NetworkSettings, UplinkSettings};

use super::network::{domain, parsed};

/// The domain of names where a network has a name server and none is said.
const DOMAIN: &str = "vm.internal";

/// As they stand in the file.
pub(super) type Networks = BTreeMap<NetworkName, FurtherNetwork>;

/// One as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FurtherNetwork {
    #[serde(default)]
    bridge: Option<String>,
    #[serde(default)]
    subnet: Option<String>,
    #[serde(default)]
    ipv6_subnet: Option<Ipv6Subnet>,
    #[serde(default, deserialize_with = "parsed")]
    reserved: Vec<AddressRange>,
    #[serde(default)]
    nat: Option<bool>,
    #[serde(default)]
    vm_to_vm: Option<bool>,
    #[serde(default, deserialize_with = "parsed")]
    host_services: Vec<HostService>,
    #[serde(default)]
    dns: Option<bool>,
    #[serde(default, deserialize_with = "domain")]
    domain: Option<Domain>,
    #[serde(default)]
    uplink: Option<String>,
    #[serde(default, deserialize_with = "vlan")]
    vlan: Option<VlanId>,
    #[serde(default)]
    addresses: Option<Addresses>,
    #[serde(default)]
    host_address: Option<Ipv4Addr>,
    #[serde(default)]
    router: Option<Ipv4Addr>,
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Addresses {
    Worker,
    External,
}

impl FurtherNetwork {
    fn settings(self, name: &NetworkName) -> Result<NetworkSettings> {
        let Self { bridge, subnet, ipv6_subnet, reserved, nat, vm_to_vm, host_services, .. } = self;
        let Self { dns, domain, uplink, vlan, addresses, host_address, router, .. } = self;
        let missing = |key: &str, accepted: &str| {
            format!("networks.{name}.{key} is missing: {accepted}, as no other network of this host has it")
        };
        let bridge = bridge.with_context(|| missing("bridge", "the name of its bridge"))?;
        let subnet = subnet.with_context(|| match addresses {
            None | Some(Addresses::Worker) => missing("subnet", "its IPv4 subnet, like 10.101.0.0/16"),
            Some(Addresses::External) => format!(
                "networks.{name}.subnet is missing: an IPv4 subnet like 10.101.0.0/16 is needed although others give addresses, \
                 because the MAC addresses of VMs are made of it; no other network and no other host on the same segment has it"
            ),
        })?;
        Ok(NetworkSettings {
            bridge,
            subnet,
            ipv6_subnet,
            reserved,
            nat: match nat {
                None | Some(true) => NetworkAddressTranslation::Masquerade,
                Some(false) => NetworkAddressTranslation::Off,
            },
            between_vms: match vm_to_vm {
                None | Some(true) => BetweenVms::Open,
                Some(false) => BetweenVms::Isolated,
            },
            host_services,
            // A guest asks any of the name servers that it is told, and those of its first network know more.
            names: domain.or_else(|| DOMAIN.parse().ok()).filter(|_| dns == Some(true)),
            uplink: match (uplink, vlan) {
                (None, None) => None,
                // A VLAN of nothing is refused where networks are planned.
                (link, vlan) => Some(UplinkSettings { link: link.unwrap_or_default(), vlan }),
            },
            addresses: match addresses {
                None | Some(Addresses::Worker) => GuestAddresses::Ours,
                Some(Addresses::External) => GuestAddresses::External,
            },
            host_address,
            router,
        })
    }
}

/// The number of a VLAN as it stands in the file.
fn vlan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<VlanId>, D::Error> {
    let Some(number) = Option::<u16>::deserialize(deserializer)? else { return Ok(None) };
    let refusal = || serde::de::Error::custom(format!("{number}: 1 to {} is accepted", VlanId::MAX));
    VlanId::new(number).map(Some).ok_or_else(refusal)
}

/// The settings of all of them.
///
/// # Errors
/// Names what one of them lacks.
pub(super) fn settings(networks: Networks) -> Result<BTreeMap<NetworkName, NetworkSettings>> {
    let settings = networks.into_iter().map(|(name, network)| {
        let settings = network.settings(&name)?;
        Ok((name, settings))
    });
    settings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_without_bridge_or_subnet_is_refused_by_name() {
        let refused = |text: &str| {
            let networks: Networks = toml::from_str(text).expect("valid TOML");
            settings(networks).expect_err("refused").to_string()
        };
        let said = refused("[storage]\nsubnet = '10.101.0.0/16'\n");
        assert!(said.starts_with("networks.storage.bridge is missing: "), "{said}");
        let said = refused("[storage]\nbridge = 'br-storage'\n");
        assert!(said.starts_with("networks.storage.subnet is missing: its IPv4 subnet"), "{said}");
        let said = refused("[lan]\nbridge = 'br-lan'\nuplink = 'eth1'\naddresses = 'external'\n");
        assert!(said.contains("the MAC addresses of VMs are made of it"), "{said}");
    }
}

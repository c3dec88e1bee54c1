//! The table `[network]` of the configuration file.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::str::FromStr;

use host_network::{BetweenVms, ConnectionLimit, Domain, HostService};
use ipam::AddressRange;
use serde::{Deserialize, Deserializer};
use vm_model::Ipv6Subnet;
use worker::vms::{NetworkAddressTranslation, VhostNet, VmManagerConfig};

/// More are no limit: no host's table of connections takes them.
pub(super) const MOST_CONNECTIONS: u32 = 1 << 20;

/// As it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    bridge: Option<String>,
    subnet: Option<String>,
    ipv6_subnet: Option<Ipv6Subnet>,
    #[serde(deserialize_with = "parsed")]
    reserved: Vec<AddressRange>,
    nat: Option<bool>,
    vm_to_vm: Option<bool>,
    #[serde(deserialize_with = "parsed")]
    host_services: Vec<HostService>,
    #[serde(deserialize_with = "connections")]
    max_connections_per_vm: Option<u32>,
    dns: Option<bool>,
    #[serde(deserialize_with = "domain")]
    domain: Option<Domain>,
    vhost_net: Option<bool>,
}

impl Network {
    /// The settings with what the file says of the network.
    pub(super) fn over(self, defaults: VmManagerConfig) -> VmManagerConfig {
        let Self { bridge, subnet, ipv6_subnet, reserved, nat, vm_to_vm, host_services, .. } = self;
        let Self { max_connections_per_vm, dns, domain, vhost_net, .. } = self;
        VmManagerConfig {
            network_bridge: bridge.unwrap_or(defaults.network_bridge),
            vm_subnet_base: subnet.unwrap_or(defaults.vm_subnet_base),
            ipv6_subnet,
            reserved_addresses: reserved,
            nat: match nat {
                None => defaults.nat,
                Some(true) => NetworkAddressTranslation::Masquerade,
                Some(false) => NetworkAddressTranslation::Off,
            },
            between_vms: match vm_to_vm {
                None => defaults.between_vms,
                Some(true) => BetweenVms::Open,
                Some(false) => BetweenVms::Isolated,
            },
            host_services,
            connections: match max_connections_per_vm.map(NonZeroU32::new) {
                None => defaults.connections,
                Some(Some(most)) => ConnectionLimit::AtMost(most),
                Some(None) => ConnectionLimit::Off,
            },
            names: domain.or(defaults.names).filter(|_| dns != Some(false)),
            vhost_net: match vhost_net {
                None => defaults.vhost_net,
                Some(true) => VhostNet::WherePossible,
                Some(false) => VhostNet::Off,
            },
            ..defaults
        }
    }
}

/// A list of texts that are read one by one, like `tcp/8080`.
pub(super) fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// A number of connections as it stands in the file.
fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(deserializer)?;
    match number.filter(|number| *number > MOST_CONNECTIONS) {
        None => Ok(number),
        Some(number) => {
            Err(serde::de::Error::custom(format!("{number}: 0 to {MOST_CONNECTIONS} is accepted")))
        }
    }
}

/// A domain as it stands in the file.
pub(super) fn domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Domain>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

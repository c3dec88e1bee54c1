//! The tables `[networks.NAME]` of the configuration file: networks beside the one of `[network]`.

use std::collections::BTreeMap;

use host_network::{BetweenVms, Domain, HostService};
use ipam::AddressRange;
use serde::Deserialize;
use vm_model::Ipv6Subnet;
use worker::vms::{NetworkAddressTranslation, NetworkName, NetworkSettings};

use super::network::{domain, parsed};

/// The domain of names where a network has a name server and none is said.
const DOMAIN: &str = "vm.internal";

/// As they stand in the file.
pub(super) type Networks = BTreeMap<NetworkName, FurtherNetwork>;

/// One as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FurtherNetwork {
    bridge: String,
    subnet: String,
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
}

impl FurtherNetwork {
    fn settings(self) -> NetworkSettings {
        let Self { bridge, subnet, ipv6_subnet, reserved, nat, vm_to_vm, host_services, dns, domain } = self;
        NetworkSettings {
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
        }
    }
}

/// The settings of all of them.
pub(super) fn settings(networks: Networks) -> BTreeMap<NetworkName, NetworkSettings> {
    networks.into_iter().map(|(name, network)| (name, network.settings())).collect()
}

//! A network interface, as it is told.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{AddressSource, MacAddress, NetworkName, NicMismatch, VmNic};

/// A network interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceView {
    /// Its name in the machine's description.
    pub id: String,
    /// Which of the worker's networks it is in: `default`, or one of `networks`.
    pub network: NetworkName,
    /// The guest's address; where others give it one, that which the worker keeps for it.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// Who gives the guest its address.
    #[serde(default, skip_serializing_if = "AddressSource::is_worker")]
    pub address_source: AddressSource,
    /// The guest's IPv6 address, where its network has such.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Ipv6Addr>,
    /// The guest's hardware address.
    pub mac: MacAddress,
    /// The host's end, while there is a machine.
    #[serde(default)]
    pub tap: Option<String>,
    /// What of it does not fit its network, where that was configured anew while the machine ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<NicMismatch>,
}

impl InterfaceView {
    pub(crate) fn new(nic: &VmNic) -> Self {
        let VmNic { id, network, address, address_source, ipv6, mac, tap, access: _, mismatch } = nic.clone();
        Self { id, network, address, address_source, ipv6, mac, tap, mismatch }
    }
}

//! The guests of a network at this moment: those that are attached, and those that the host's tables have.

use vm_model::{NetworkAccess, VmId};

use super::{Attached, HostNetwork, KeptNic};
use crate::bridge::BridgeOrigin;
use crate::firewall::Firewall;
use crate::netlink::{Link, Netlink};
use crate::port_filter::PortIdentity;
use crate::rules::blocking;
use crate::silence::HostIpv6;
use crate::start::unknown_nics;
use crate::{NetworkConfig, NetworkError};

impl HostNetwork {
    /// The interfaces that are attached, as [`HostNetwork::resume`] takes them: for who ends this value by
    /// [`Teardown::Keep`](crate::Teardown::Keep) and resumes the network with another configuration.
    pub fn attached_nics(&self) -> Vec<KeptNic> {
        let attached: Vec<_> = self.shared.lock().values().cloned().collect();
        let kept = attached.into_iter().filter_map(|Attached { bound, tap }| {
            let tap = tap?;
            let told = bound.and_then(|mac| self.shared.bindings.look(|bindings| bindings.get(mac).cloned()));
            Some(KeptNic {
                vm: tap.vm,
                nic: tap.nic,
                mac: tap.identity.mac,
                address: tap.identity.address,
                mask: told.as_ref().and_then(|told| told.mask),
                mtu: told.and_then(|told| told.mtu),
                tap: tap.name,
                access: tap.access,
            })
        });
        kept.collect()
    }
}

/// What passes between each guest whose TAP is on this host and what lies beyond its network, as the tables of a run have it
/// that was configured by `config`, whoever runs the guest. Of `config` only the name of the tables matters. Empty where there
/// are none.
///
/// # Errors
/// The host's links cannot be listed.
pub async fn guests_access(config: &NetworkConfig) -> Result<Vec<(VmId, NetworkAccess)>, NetworkError> {
    let netlink = Netlink::open()?;
    let links = netlink.links().await;
    netlink.close().await;
    let links = links?;
    let firewall = Firewall::new(config, HostIpv6::Off, BridgeOrigin::Ours);
    blocking("look what guests are let to", move || listed_access(&firewall, &links)).await
}

/// Blocks on `nft`.
pub(crate) fn listed_access(firewall: &Firewall, links: &[Link]) -> Vec<(VmId, NetworkAccess)> {
    let Some(listing) = firewall.listing() else { return Vec::new() };
    let nics = unknown_nics(&Default::default(), links, Some(&listing));
    let access = nics.into_iter().map(|(_, nic)| {
        let identity = PortIdentity { mac: nic.mac, address: nic.address };
        (nic.vm, listing.access(identity, None))
    });
    access.collect()
}

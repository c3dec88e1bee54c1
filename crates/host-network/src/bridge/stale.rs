//! Addresses that an earlier start gave a bridge of ours, and that are not the network's any more since its subnet was changed.
//!
//! What a bridge of ours is given is noted as what another's bridge is given is, so that addresses which an administrator added
//! are told apart and stay.

use std::net::Ipv4Addr;

use ipnetwork::IpNetwork;
use tracing::info;

use super::{BridgeOrigin, Observed};
use crate::changed_settings::AdoptedBridge;
use crate::netlink::Netlink;
use crate::rules::{Rules, SharedRules};
use crate::{NetworkConfig, NetworkError};

/// Of the addresses `noted` as given by us, those that the bridge has still and needs no more. The host's address in the network
/// of a guest that runs on is needed. IPv6 addresses of guests depend on a prefix that nobody knows any more, so while guests run
/// those stay.
fn plan_stale(
    noted: &[IpNetwork],
    wanted: &[IpNetwork],
    present: &[IpNetwork],
    guests: &[Ipv4Addr],
) -> Vec<IpNetwork> {
    let is_needed = |address: &IpNetwork| match address {
        IpNetwork::V4(network) => guests.iter().any(|guest| network.contains(*guest)),
        IpNetwork::V6(_) => !guests.is_empty(),
    };
    let stale = noted.iter().filter(|it| present.contains(it) && !wanted.contains(it) && !is_needed(it));
    stale.copied().collect()
}

/// Notes what the bridge with the index `bridge` has of us, and takes away what earlier starts gave it and nobody needs now that
/// `guests` run on. Of another's bridge nothing is changed: it gets back what it had at the end.
///
/// # Errors
/// If the kernel refuses, or it cannot be noted.
pub(crate) async fn remove_stale(
    netlink: &Netlink,
    config: &NetworkConfig,
    rules: &SharedRules,
    (bridge, origin): (u32, BridgeOrigin),
    (observed, guests): (&Observed, &[Ipv4Addr]),
) -> Result<(), NetworkError> {
    match origin {
        BridgeOrigin::Created | BridgeOrigin::Ours => {}
        BridgeOrigin::Adopted => return Ok(()),
    }
    let ipv6 = config.ipv6.and_then(|subnet| IpNetwork::new(subnet.gateway().into(), 64).ok());
    let ipv4 = config.host_address().map(IpNetwork::V4);
    let wanted: Vec<IpNetwork> = ipv4.into_iter().chain(ipv6).collect();
    let ours =
        AdoptedBridge { addresses: wanted.clone(), ..AdoptedBridge::untouched(bridge, &config.bridge) };
    let note = move |rules: &mut Rules| {
        rules.changed.note_bridge(Some(ours))?;
        let noted = rules.changed.bridges().iter().filter(|noted| noted.index == bridge);
        Ok::<_, NetworkError>(noted.flat_map(|noted| noted.addresses.clone()).collect::<Vec<_>>())
    };
    let noted = rules.run("note which addresses the bridge is given", note).await??;
    let ipv4 = observed.addresses.iter().filter(|it| it.link == bridge).map(|it| it.address.into());
    let ipv6 = observed.ipv6.iter().filter(|it| it.link == bridge).map(|it| it.address.into());
    let present: Vec<IpNetwork> = ipv4.chain(ipv6).collect();
    for address in plan_stale(&noted, &wanted, &present, guests) {
        netlink.remove_address(bridge, address).await?;
        info!(bridge = %config.bridge, %address, "the bridge loses the address that it had in its former network");
        let forget = move |rules: &mut Rules| rules.changed.forget_address(bridge, address);
        rules.run("note that the bridge has lost an address", forget).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_we_gave_goes_when_nobody_needs_it_and_what_others_gave_stays() {
        let noted = networks(&["10.1.0.1/16", "10.2.0.1/16", "10.3.0.1/16", "fd01::1/64"]);
        let wanted = networks(&["10.2.0.1/16"]);
        let present = networks(&["10.1.0.1/16", "10.2.0.1/16", "192.0.2.7/24", "fd01::1/64"]);
        assert_eq!(plan_stale(&noted, &wanted, &present, &[]), networks(&["10.1.0.1/16", "fd01::1/64"]));
        let of_new = [Ipv4Addr::new(10, 2, 0, 9)];
        assert_eq!(plan_stale(&noted, &wanted, &present, &of_new), networks(&["10.1.0.1/16"]));
        let of_old = [Ipv4Addr::new(10, 1, 0, 9)];
        assert_eq!(plan_stale(&noted, &wanted, &present, &of_old), networks(&[]));
    }
}

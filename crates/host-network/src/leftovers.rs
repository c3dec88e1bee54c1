//! What an earlier run left of a network that is no longer wanted: bridge, rules, and settings of the host.

use crate::bridge::{BridgeOrigin, observe, seen_bridge};
use crate::changed_settings::ChangedSettings;
use crate::exclusive::Exclusive;
use crate::firewall::Firewall;
use crate::forwarding::recall_guarded;
use crate::host::Remains;
use crate::names::{BRIDGE_ALIAS, tap_owner};
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::nfnetlink::PacketFilter;
use crate::rules::{Rules, SharedRules, blocking};
use crate::silence::HostIpv6;
use crate::{NetworkConfig, NetworkError, TeardownOutcome};

/// What has become of a network that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// Nothing of ours is left of it.
    Removed,
    /// VMs may run on it: nothing was touched.
    CarriesVms {
        /// Their TAPs.
        ports: Vec<String>,
    },
    /// Others use its bridge, which stays with its address; the rest is removed.
    InUse {
        /// The links on its bridge.
        ports: Vec<String>,
    },
}

/// Removes what an earlier run with `config` left on this host, unless a TAP of ours is on its bridge: a VM may run there. Of
/// `config` only the bridge, the table and the directory of the note matter. Does nothing where nothing was left.
///
/// # Errors
/// If another worker uses the network, or the kernel or `nft` refuses; what comes after stays.
pub async fn remove_leftovers(config: &NetworkConfig) -> Result<Leftovers, NetworkError> {
    let _exclusive = Exclusive::take(config)?;
    let netlink = Netlink::open()?;
    let removed = remove(config, &netlink).await;
    netlink.close().await;
    removed
}

async fn remove(config: &NetworkConfig, netlink: &Netlink) -> Result<Leftovers, NetworkError> {
    let observed = observe(netlink).await?;
    let bridge = seen_bridge(&config.bridge, &observed.links);
    let taps = ports_of_vms(bridge, &observed.links);
    if !taps.is_empty() {
        return Ok(Leftovers::CarriesVms { ports: taps });
    }
    let is_ours = bridge.is_none_or(|link| link.alias.as_deref() == Some(BRIDGE_ALIAS));
    let origin = if is_ours { BridgeOrigin::Ours } else { BridgeOrigin::Adopted };
    let filter = PacketFilter::open().map_err(NetlinkError::Open)?;
    let (firewall, note) = (Firewall::new(config, HostIpv6::Off, origin), config.note());
    let links = observed.links.clone();
    let recall = move || {
        let mut changed = ChangedSettings::open(note);
        if let Some(listing) = firewall.listing() {
            recall_guarded(&listing, &links, &mut changed)?;
        }
        Ok::<_, NetworkError>(SharedRules::new(Rules::new(firewall, changed, filter, Default::default())))
    };
    let rules = blocking("look what is left of a network", recall).await??;
    let bridge = bridge.map(|link| link.index);
    let outcome = Remains { bridge, origin, taps: Vec::new(), rules }.remove(netlink, config).await?;
    Ok(match outcome {
        TeardownOutcome::InUse { ports } => Leftovers::InUse { ports },
        TeardownOutcome::Kept | TeardownOutcome::Removed | TeardownOutcome::Adopted => Leftovers::Removed,
    })
}

/// The TAPs of ours that are ports of `bridge`.
fn ports_of_vms(bridge: Option<&Link>, links: &[Link]) -> Vec<String> {
    let Some(bridge) = bridge else { return Vec::new() };
    let ports = links.iter().filter(|link| link.controller == Some(bridge.index));
    let taps = ports.filter(|link| link.alias.as_deref().and_then(tap_owner).is_some());
    taps.map(|link| link.name.clone()).collect()
}

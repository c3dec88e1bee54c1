//! What a start would find on this host, for those who only want to know. Nothing is changed.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::bridge::{
    BridgeOrigin, Observed, SubnetUse, find_ipv6_use, find_uses, observe, plan_bridge, seen_bridge,
};
use crate::changed_settings::ChangedSettings;
use crate::firewall::Firewall;
use crate::forwarding::{describe, observe_forwarding, plan_forwarding, recall_guarded};
use crate::netlink::Netlink;
use crate::rules::blocking;
use crate::silence::HostIpv6;
use crate::{HostForwarding, NetworkConfig, NetworkError};

/// What stands for and against a network on this host.
#[derive(Debug)]
pub struct Survey {
    /// Why the link that has the bridge's name cannot be the bridge; `None` where it can, and where there is none yet.
    pub bridge: Option<NetworkError>,
    /// Who else uses addresses of the subnet: a start is refused, unless VMs run already.
    pub uses: Vec<SubnetUse>,
    /// A subnet that nobody uses.
    pub free: Option<Ipv4Network>,
    /// Whom the host forwards for while the network is up.
    pub forwarding: HostForwarding,
}

/// Looks at this host as a start with `config` does, in the network namespace of the calling thread.
///
/// # Errors
/// The host's links, addresses or routes cannot be listed.
pub async fn survey(config: &NetworkConfig) -> Result<Survey, NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    let netlink = Netlink::open()?;
    let observed = observe(&netlink).await;
    netlink.close().await;
    let observed = observed?;
    let bridge = seen_bridge(&config.bridge, &observed.links).map(|link| link.index);
    let uses = find_uses(config.network(), bridge, &observed);
    let in_use = find_ipv6_use(config, bridge, &observed)
        .map(|problem| NetworkError::Bridge { name: config.bridge.clone(), problem });
    let (refused, free) = (plan_bridge(config, &observed).err().or(in_use), free_subnet(bridge, &observed));
    let config = config.clone();
    let look = move || forwarding(&config, bridge.unwrap_or_default(), &observed);
    let forwarding = blocking("look whom the host forwards for", look).await??;
    Ok(Survey { bridge: refused, uses, free, forwarding })
}

fn free_subnet(bridge: Option<u32>, observed: &Observed) -> Option<Ipv4Network> {
    let candidates =
        (100..=255).filter_map(|second| Ipv4Network::new(Ipv4Addr::new(10, second, 0, 0), 16).ok());
    candidates.into_iter().find(|network| find_uses(*network, bridge, observed).is_empty())
}

/// Blocks.
fn forwarding(
    config: &NetworkConfig,
    bridge: u32,
    observed: &Observed,
) -> Result<HostForwarding, NetworkError> {
    // Without a note: what is turned on for VMs is told by its guards.
    let mut changed = ChangedSettings::open(None);
    if let Some(listing) = Firewall::new(config, HostIpv6::Off, BridgeOrigin::Ours).listing() {
        recall_guarded(&listing, &observed.links, &mut changed)?;
    }
    let seen = observe_forwarding(bridge, &observed.links, &observed.routes, &config.peers, &changed);
    Ok(describe(config.egress, bridge, &seen, &plan_forwarding(config.egress, bridge, &seen)))
}

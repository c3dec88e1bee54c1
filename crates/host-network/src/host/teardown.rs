//! Shutting the network down: what goes, what stays, and why.

use std::sync::Arc;

use super::{AttachedTap, HostNetwork, Shared};
use crate::bridge::give_bridges_back;
use crate::netlink::Netlink;
use crate::rules::{Rules, SharedRules};
use crate::start::Holdings;
use crate::uplink::give_uplinks_back;
use crate::{BridgeOrigin, NetworkConfig, NetworkError};

/// What shutting down leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// Bridge, TAPs, rules and settings of the host stay exactly as they are, for guests that go on: their frames and
    /// packets pass without a break, and [`HostNetwork::resume`] takes them over. Guests keep their addresses by the
    /// length of their leases, though nobody renews them. What was changed on the host stays noted in
    /// [`NetworkConfig::state_dir`], so that a later [`Teardown::Remove`] gives back what was there before the first
    /// start; without that directory it is forgotten.
    Keep,
    /// Everything that is ours goes.
    Remove,
}

/// What became of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeardownOutcome {
    /// It stays, as asked.
    Kept,
    /// It is gone.
    Removed,
    /// It is not ours, and stays.
    Adopted,
    /// It is ours but others' links are attached to it, so it stays.
    InUse {
        /// Those links.
        ports: Vec<String>,
    },
}

impl HostNetwork {
    /// Stops the DHCP server and upkeep, and lets another worker have the bridge. With [`Teardown::Remove`], removes
    /// every TAP that was attached through this value or kept, our table, and the bridge if it is ours and nobody else's link is attached to it. Settings of links that were
    /// changed get the values they had, where nobody else has changed them since.
    ///
    /// # Errors
    /// If the kernel or `nft` refuses; what comes after stays.
    pub async fn shutdown(self, teardown: Teardown) -> Result<TeardownOutcome, NetworkError> {
        let Self { shared, upkeep, exclusive, .. } = self;
        let holdings = upkeep.stop().await?;
        let taps = shared.taps();
        let Shared { config, netlink, bridge, .. } =
            Arc::into_inner(shared).expect("upkeep held the only other one, and has ended");
        let Holdings { origin, rules, dhcp, names, ipv6, .. } = holdings;
        if let Some(dhcp) = dhcp {
            dhcp.stop().await;
        }
        if let Some((server, _)) = ipv6 {
            server.stop().await;
        }
        if let Some(names) = names {
            names.stop().await;
        }
        let remains = Remains { bridge: Some(bridge.into_inner()), origin, taps, rules };
        let outcome = match teardown {
            Teardown::Keep => Ok(TeardownOutcome::Kept),
            Teardown::Remove => remains.remove(&netlink, &config).await,
        };
        netlink.close().await;
        drop(exclusive);
        outcome
    }
}

/// What there is to remove once DHCP is silent.
pub(crate) struct Remains {
    /// The bridge's index; `None` where it is gone already.
    pub(crate) bridge: Option<u32>,
    pub(crate) origin: BridgeOrigin,
    pub(crate) taps: Vec<AttachedTap>,
    pub(crate) rules: SharedRules,
}

impl Remains {
    pub(crate) async fn remove(
        self,
        netlink: &Netlink,
        config: &NetworkConfig,
    ) -> Result<TeardownOutcome, NetworkError> {
        for tap in &self.taps {
            netlink.delete(tap.index, tap.name.as_str()).await?;
        }
        // While the rules are there still.
        give_uplinks_back(netlink, config, self.bridge, &self.rules, None).await?;
        self.rules.run("give packet forwarding back", Rules::give_back).await??;
        give_bridges_back(netlink, &self.rules).await?;
        if self.origin == BridgeOrigin::Adopted {
            return Ok(TeardownOutcome::Adopted);
        }
        let Some(bridge) = self.bridge else { return Ok(TeardownOutcome::Removed) };
        let links = netlink.links().await?;
        let ports: Vec<String> =
            links.into_iter().filter(|link| link.controller == Some(bridge)).map(|link| link.name).collect();
        if ports.is_empty() {
            netlink.delete(bridge, config.bridge.as_str()).await?;
            // Now that it is gone, nothing of it is noted.
            give_bridges_back(netlink, &self.rules).await?;
            Ok(TeardownOutcome::Removed)
        } else {
            Ok(TeardownOutcome::InUse { ports })
        }
    }
}

//! Shutting the network down: what goes, what stays, and why.

use std::sync::{Arc, Mutex, PoisonError};

use super::{AttachedTap, HostNetwork, Shared};
use crate::bridge::bridge_address;
use crate::netlink::{BridgeSetting, Netlink};
use crate::start::{Holdings, Rules, blocking};
use crate::{BridgeOrigin, NetworkConfig, NetworkError};

/// What shutting down leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// Bridge, TAPs and rules stay, for guests that go on.
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
    /// Stops the DHCP server and, with [`Teardown::Remove`], removes every TAP attached through this value, our
    /// table, and the bridge if it is ours and nobody else's link is attached to it. Settings of links that were
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
        let Holdings { origin, address_added, bridge_undo, rules, dhcp, .. } = holdings;
        dhcp.stop().await;
        let remains =
            Remains { bridge: bridge.into_inner(), origin, address_added, bridge_undo, taps, rules };
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
struct Remains {
    bridge: u32,
    origin: BridgeOrigin,
    address_added: bool,
    bridge_undo: Vec<BridgeSetting>,
    taps: Vec<AttachedTap>,
    rules: Arc<Mutex<Rules>>,
}

impl Remains {
    async fn remove(
        self,
        netlink: &Netlink,
        config: &NetworkConfig,
    ) -> Result<TeardownOutcome, NetworkError> {
        for tap in &self.taps {
            netlink.delete(tap.index, tap.name.as_str()).await?;
        }
        let rules = self.rules;
        let give_back = move || rules.lock().unwrap_or_else(PoisonError::into_inner).give_back();
        blocking("give packet forwarding back", give_back).await??;
        if self.origin == BridgeOrigin::Adopted {
            for setting in &self.bridge_undo {
                netlink.change_bridge(&config.bridge, *setting).await?;
            }
            if self.address_added {
                netlink.remove_address(self.bridge, bridge_address(config)).await?;
            }
            return Ok(TeardownOutcome::Adopted);
        }
        let links = netlink.links().await?;
        let ports: Vec<String> = links
            .into_iter()
            .filter(|link| link.controller == Some(self.bridge))
            .map(|link| link.name)
            .collect();
        if ports.is_empty() {
            netlink.delete(self.bridge, config.bridge.as_str()).await?;
            Ok(TeardownOutcome::Removed)
        } else {
            Ok(TeardownOutcome::InUse { ports })
        }
    }
}

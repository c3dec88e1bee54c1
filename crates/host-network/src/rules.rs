//! What blocking steps work on: our packet filter table, and the settings of the host that were changed.

use std::sync::{Arc, Mutex, PoisonError};

use crate::NetworkError;
use crate::changed_settings::ChangedSettings;
use crate::firewall::{Firewall, GuardedLink};
use crate::forwarding::{
    self, HostForwarding, apply_switches, describe, give_back_everything, observe_forwarding, plan_forwarding,
};
use crate::netlink::{Ipv4Route, Link};
use crate::silence::{HostIpv6, silence_bridge};

/// Our table, and the settings that were changed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) firewall: Firewall,
    pub(crate) changed: ChangedSettings,
    /// The guards in our table; `None` before it was first applied, and where it must be applied again.
    guarded: Option<Vec<GuardedLink>>,
    /// Our table as it was shown after it was applied.
    listing: Option<String>,
}

/// The rules as start, upkeep and teardown share them. One step at a time has them, on a thread that may block; the
/// lock is never held across an `.await`.
#[derive(Clone, Debug)]
pub(crate) struct SharedRules(Arc<Mutex<Rules>>);

impl SharedRules {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(Arc::new(Mutex::new(rules)))
    }

    /// Runs a step that blocks on the kernel, on a file or on `nft` away from the runtime's workers.
    ///
    /// # Errors
    /// If the step panicked or the runtime ends.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        step: impl FnOnce(&mut Rules) -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let Self(rules) = self.clone();
        blocking(operation, move || step(&mut rules.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl Rules {
    pub(crate) fn new(firewall: Firewall, changed: ChangedSettings) -> Self {
        Self { firewall, changed, guarded: None, listing: None }
    }

    /// Brings the bridge's switches, forwarding and our table to what the host's links and routes need. The table is
    /// applied only where it must change. Blocks.
    ///
    /// # Errors
    /// If a rule or a switch cannot be set; what was set before it stays, and is noted.
    pub(crate) fn settle(
        &mut self,
        bridge: u32,
        links: &[Link],
        routes: &[Ipv4Route],
        host_ipv6: HostIpv6,
    ) -> Result<HostForwarding, NetworkError> {
        let Self { firewall, changed, guarded, listing } = self;
        silence_bridge(bridge, firewall.bridge.as_str(), host_ipv6, changed)?;
        let seen = observe_forwarding(bridge, links, routes, changed);
        let plan = plan_forwarding(firewall.egress, bridge, &seen);
        forwarding::give_back(&plan, changed);
        if guarded.as_ref() != Some(&plan.guarded) {
            *guarded = None;
            firewall.apply(&plan.guarded)?;
            *listing = firewall.listing();
            // Whoever took rules away since is heard of, and must not be taken for us.
            let is_whole = firewall.shows_every_rule(&plan.guarded, listing.as_deref());
            *guarded = is_whole.then(|| plan.guarded.clone());
        }
        apply_switches(&plan, changed)?;
        Ok(describe(firewall.egress, &seen, &plan))
    }

    /// Looks whether our table is as we made it; if not, [`Rules::settle`] makes it again. Blocks on `nft`.
    pub(crate) fn look_at_table(&mut self) -> bool {
        let is_whole = self.firewall.listing() == self.listing;
        if !is_whole {
            self.guarded = None;
        }
        is_whole
    }

    /// Gives the settings back, and then takes the rules away: no link forwards without its guard. Blocks.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub(crate) fn give_back(&mut self) -> Result<(), NetworkError> {
        give_back_everything(&mut self.changed);
        Ok(self.firewall.remove()?)
    }
}

/// Runs a step that blocks on the kernel or on `nft` away from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(step).await.map_err(|cause| NetworkError::Lost { operation, cause })
}

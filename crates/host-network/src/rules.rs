//! What blocking steps work on: our packet filter table, and the settings of the host that were changed.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;

use crate::NetworkError;
use crate::changed_settings::ChangedSettings;
use crate::firewall::{Firewall, GuardedLink};
use crate::forwarding::{
    self, HostForwarding, apply_switches, describe, give_back_everything, observe_forwarding, plan_forwarding,
};
use crate::netlink::{Ipv4Route, Link};
use crate::nfnetlink::{Message, PacketFilter};
use crate::port_filter::elements::{self, Change};
use crate::port_filter::{Identities, PortIdentity};
use crate::silence::silence_bridge;

/// How many ports change in one transaction: it must fit a socket's buffer.
const PORTS_A_TRANSACTION: usize = 64;

/// Our tables, and the settings that were changed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) firewall: Firewall,
    pub(crate) changed: ChangedSettings,
    /// By which ports change without `nft`.
    filter: PacketFilter,
    /// Whose wire each port is.
    identities: Identities,
    /// The guards in our tables; `None` before they were first applied, and where they must be applied again.
    guarded: Option<Vec<GuardedLink>>,
    /// Our tables' rules as they were shown after they were applied.
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
    /// Rules that are in force nowhere yet, for the ports of `identities`.
    pub(crate) fn new(
        firewall: Firewall,
        changed: ChangedSettings,
        filter: PacketFilter,
        identities: Identities,
    ) -> Self {
        Self { firewall, changed, filter, identities, guarded: None, listing: None }
    }

    /// Binds the port with the link index `index` to its guest: from here on nothing else passes there. Before the port
    /// is up. Blocks.
    ///
    /// # Errors
    /// If the tables cannot be changed.
    pub(crate) fn bind_port(&mut self, index: u32, identity: PortIdentity) -> Result<(), NetworkError> {
        let before = self.identities.insert(index, identity);
        if self.guarded.is_none() {
            // The tables will be made with it.
            return Ok(());
        }
        let table = &self.firewall.table;
        let mut messages = Vec::new();
        if let Some(before) = before {
            messages.extend(elements::messages(table, Change::Remove, index, before));
        }
        messages.extend(elements::messages(table, Change::Enter, index, identity));
        if self.commit(&messages).is_ok() {
            return Ok(());
        }
        // Somebody has removed what we made: it is made again, with this port in it.
        let guarded = self.guarded.take().unwrap_or_default();
        self.apply(&guarded)
    }

    /// Takes the port with the link index `index`, whose link is gone, out of our tables. Blocks.
    pub(crate) fn release_port(&mut self, index: u32) {
        let Some(identity) = self.identities.remove(&index) else { return };
        let messages = elements::messages(&self.firewall.table, Change::Remove, index, identity);
        if self.guarded.is_some() && self.commit(&messages).is_err() {
            self.guarded = None;
        }
    }

    /// Takes out the ports of links that are no more. One whose index is higher than all that were seen was made since.
    fn release_ports(&mut self, links: &[Link]) {
        let highest = links.iter().map(|link| link.index).max().unwrap_or_default();
        let is_there = |index: u32| index > highest || links.iter().any(|link| link.index == index);
        let gone: Vec<(u32, PortIdentity)> =
            self.identities.iter().filter(|(index, _)| !is_there(**index)).map(|(i, p)| (*i, *p)).collect();
        for some in gone.chunks(PORTS_A_TRANSACTION) {
            let table = &self.firewall.table;
            let remove = |(index, identity): &(u32, PortIdentity)| {
                elements::messages(table, Change::Remove, *index, *identity)
            };
            let messages: Vec<Message> = some.iter().flat_map(remove).collect();
            for (index, _) in some {
                self.identities.remove(index);
            }
            if self.guarded.is_some() && self.commit(&messages).is_err() {
                self.guarded = None;
            }
        }
    }

    fn commit(&mut self, messages: &[Message]) -> std::io::Result<()> {
        self.filter
            .commit(messages)
            .inspect_err(|error| debug!(%error, "ports cannot be changed alone: our tables are made again"))
    }

    /// Makes our tables. What is not as we made them afterwards is made again at the next look.
    fn apply(&mut self, guarded: &[GuardedLink]) -> Result<(), NetworkError> {
        self.guarded = None;
        self.firewall.apply(guarded, &self.identities)?;
        let listing = self.firewall.listing();
        // Whoever took rules away since is heard of, and must not be taken for us.
        let is_whole = listing.as_ref().is_some_and(|listing| {
            self.firewall.shows_every_rule(guarded, listing) && listing.shows_every_port(&self.identities)
        });
        self.listing = listing.map(|listing| listing.rules().to_owned());
        self.guarded = is_whole.then(|| guarded.to_vec());
        Ok(())
    }

    /// Brings the bridge's switches, forwarding and our tables to what the host's links and routes need. The tables are
    /// applied only where they must change. Blocks.
    ///
    /// # Errors
    /// If a rule or a switch cannot be set; what was set before it stays, and is noted.
    pub(crate) fn settle(
        &mut self,
        bridge: u32,
        links: &[Link],
        routes: &[Ipv4Route],
    ) -> Result<HostForwarding, NetworkError> {
        if self.firewall.bridge_index != Some(bridge) {
            self.firewall.bridge_index = Some(bridge);
            self.guarded = None;
        }
        silence_bridge(bridge, self.firewall.bridge.as_str(), self.firewall.host_ipv6, &mut self.changed)?;
        self.release_ports(links);
        let seen = observe_forwarding(bridge, links, routes, &self.changed);
        let plan = plan_forwarding(self.firewall.egress, bridge, &seen);
        forwarding::give_back(&plan, &mut self.changed);
        if self.guarded.as_ref() != Some(&plan.guarded) {
            self.apply(&plan.guarded)?;
        }
        apply_switches(&plan, &mut self.changed)?;
        Ok(describe(self.firewall.egress, bridge, &seen, &plan))
    }

    /// Looks whether our tables are as we made them; if not, [`Rules::settle`] makes them again. Blocks on `nft`.
    pub(crate) fn look_at_tables(&mut self) -> bool {
        let listing = self.firewall.listing();
        let is_whole = listing.as_ref().is_some_and(|listing| {
            Some(listing.rules()) == self.listing.as_deref() && listing.shows_every_port(&self.identities)
        });
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

//! What blocking steps work on: our packet filter table, and the settings of the host that were changed.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;
use vm_model::{Ipv6Subnet, NetworkAccess, PortForward, VmId};

use crate::bound_port::{BoundPort, Ports};
use crate::changed_settings::{ChangedSettings, Switch};
use crate::firewall::{Firewall, GuardedLink};
use crate::forwarding::{
    self, HostForwarding, apply_switches, describe, give_back_everything, observe_forwarding, plan_forwarding,
};
use crate::forwards::{ForwardConflict, ForwardWarning, drop_conflicts, find_conflict, forward_warnings};
use crate::ipv6::{self, Ipv6ForwardingPlan, apply_forwarding, give_back_forwarding};
use crate::netlink::{Ipv4Route, Link};
use crate::nfnetlink::connections::end_connections;
use crate::nfnetlink::element::Change;
use crate::nfnetlink::{Message, PacketFilter};
use crate::silence::{HostIpv6, silence_bridge};
use crate::{Egress, NetworkError};

/// How many elements change in one transaction: it must fit a socket's buffer, and so must its answers.
const CHANGES_A_TRANSACTION: usize = 250;

/// Our tables, and the settings that were changed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) firewall: Firewall,
    pub(crate) changed: ChangedSettings,
    /// By which ports change without `nft`.
    filter: PacketFilter,
    /// The ports of VMs.
    ports: Ports,
    /// The bridge's index, once it was settled.
    bridge: Option<u32>,
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

    /// Runs a step on a thread that may block.
    pub(crate) fn run_blocking<T>(&self, step: impl FnOnce(&mut Rules) -> T) -> T {
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
    /// Rules that are in force nowhere yet, for `ports`.
    pub(crate) fn new(
        firewall: Firewall,
        changed: ChangedSettings,
        filter: PacketFilter,
        mut ports: Ports,
    ) -> Self {
        drop_conflicts(&mut ports);
        Self { firewall, changed, filter, ports, bridge: None, guarded: None, listing: None }
    }

    /// Binds the port with the link index `index` to its guest: from here on nothing else passes there. Before the port
    /// is up. The answer says in words what about its forwards is not as one may think. Blocks.
    ///
    /// # Errors
    /// If the tables cannot be changed, or a port of the host leads to another VM; nothing is bound then.
    pub(crate) fn bind_port(
        &mut self,
        index: u32,
        port: BoundPort,
    ) -> Result<Vec<ForwardWarning>, NetworkError> {
        self.check_forwards(&port.vm, &port.access.forwards)?;
        let warnings = forward_warnings(self.firewall.egress, &port.access.forwards);
        self.withdraw_stale(index, &port);
        let before = self.ports.insert(index, port.clone());
        if self.guarded.is_none() {
            // The tables will be made with it.
            return Ok(warnings);
        }
        self.let_loopback_pass()?;
        let tables = self.firewall.tables();
        let mut messages = Vec::new();
        if let Some(before) = before {
            messages.extend(before.removal(&tables, index, &self.ports));
        }
        messages.extend(port.entry(&tables, index));
        if self.commit(&messages).is_ok() {
            return Ok(warnings);
        }
        // Somebody has removed what we made: it is made again, with this port in it.
        let guarded = self.guarded.take().unwrap_or_default();
        self.apply(&guarded)?;
        Ok(warnings)
    }

    /// Whether the ports of the host that `vm` wants lead to no other VM.
    ///
    /// # Errors
    /// The first that does.
    pub(crate) fn check_forwards(&self, vm: &VmId, forwards: &[PortForward]) -> Result<(), ForwardConflict> {
        find_conflict(&self.ports, vm, forwards).map_or(Ok(()), Err)
    }

    /// Ends the forwards to the port with the link index `index`; its guest stays bound. Blocks.
    pub(crate) fn withdraw_forwards(&mut self, index: u32) {
        self.withdraw(index, |access| NetworkAccess {
            forwards: std::mem::take(&mut access.forwards),
            egress: None,
        });
    }

    /// Ends everything about the port with the link index `index` that stands under its guest's address, which may be
    /// another port's next. Its TAP is gone. Blocks.
    pub(crate) fn withdraw_access(&mut self, index: u32) {
        self.withdraw(index, std::mem::take);
        if let Some(port) = self.ports.get(&index) {
            forget_connections(&self.ports, index, port, self.firewall.host_ipv6.served());
        }
    }

    /// Takes out of the tables what `taken` takes of a port's access.
    fn withdraw(&mut self, index: u32, taken: impl FnOnce(&mut NetworkAccess) -> NetworkAccess) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        let taken = BoundPort { access: taken(&mut port.access), ..port.clone() };
        let messages = taken.access_messages(&self.firewall.tables(), Change::Remove);
        if self.guarded.is_some() && !messages.is_empty() && self.commit(&messages).is_err() {
            self.guarded = None;
        }
    }

    /// Ends what is left of earlier ports of which nobody told the end: forwards to the same VM, and all that stands under the
    /// address of `port`.
    fn withdraw_stale(&mut self, index: u32, port: &BoundPort) {
        let others = self.ports.iter().filter(|(other, _)| **other != index);
        let (mut same_address, mut same_vm) = (Vec::new(), Vec::new());
        for (other, stale) in others {
            if stale.identity.address == port.identity.address {
                same_address.push(*other);
            } else if stale.vm == port.vm && !port.access.forwards.is_empty() {
                same_vm.push(*other);
            }
        }
        same_address.into_iter().for_each(|other| self.withdraw_access(other));
        same_vm.into_iter().for_each(|other| self.withdraw_forwards(other));
    }

    /// Has packets from 127.0.0.0/8 pass the bridge where a port of the host leads to a VM.
    fn let_loopback_pass(&mut self) -> Result<(), NetworkError> {
        if let Some(bridge) = self.bridge
            && self.ports.values().any(|port| !port.access.forwards.is_empty())
        {
            self.changed.set(bridge, self.firewall.bridge.as_str(), Switch::RouteLocalnet, "1")?;
        }
        Ok(())
    }

    /// Takes the port with the link index `index`, whose link is gone, out of our tables. Blocks.
    pub(crate) fn release_port(&mut self, index: u32) {
        let Some(port) = self.ports.remove(&index) else { return };
        let messages = port.removal(&self.firewall.tables(), index, &self.ports);
        if self.guarded.is_some() && self.commit(&messages).is_err() {
            self.guarded = None;
        }
        forget_connections(&self.ports, index, &port, self.firewall.host_ipv6.served());
    }

    /// Takes out the ports of links that are no more. One whose index is higher than all that were seen was made since.
    fn release_ports(&mut self, links: &[Link]) {
        let highest = links.iter().map(|link| link.index).max().unwrap_or_default();
        let is_there = |index: u32| index > highest || links.iter().any(|link| link.index == index);
        let gone: Vec<u32> = self.ports.keys().copied().filter(|index| !is_there(*index)).collect();
        let (mut messages, mut ended) = (Vec::new(), Vec::new());
        for index in gone {
            if let Some(port) = self.ports.remove(&index) {
                messages.extend(port.removal(&self.firewall.tables(), index, &self.ports));
                ended.push((index, port));
            }
        }
        for some in messages.chunks(CHANGES_A_TRANSACTION) {
            if self.guarded.is_some() && self.commit(some).is_err() {
                self.guarded = None;
            }
        }
        let ipv6 = self.firewall.host_ipv6.served();
        ended.iter().for_each(|(index, port)| forget_connections(&self.ports, *index, port, ipv6));
    }

    fn commit(&mut self, messages: &[Message]) -> std::io::Result<()> {
        self.filter
            .commit(messages)
            .inspect_err(|error| debug!(%error, "ports cannot be changed alone: our tables are made again"))
    }

    /// Makes our tables. What is not as we made them afterwards is made again at the next look.
    fn apply(&mut self, guarded: &[GuardedLink]) -> Result<(), NetworkError> {
        self.guarded = None;
        self.firewall.apply(guarded, &self.ports)?;
        let listing = self.firewall.listing();
        // Whoever took rules away since is heard of, and must not be taken for us.
        let is_whole = listing.as_ref().is_some_and(|listing| {
            self.firewall.shows_every_rule(guarded, listing)
                && listing.shows_every_port(&self.ports, &self.firewall.tables())
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
        self.silence(bridge)?;
        self.bridge = Some(bridge);
        self.release_ports(links);
        let seen = observe_forwarding(bridge, links, routes, &self.firewall.peers, &self.changed);
        let plan = plan_forwarding(self.firewall.egress, bridge, &seen);
        forwarding::give_back(&plan, &mut self.changed);
        let ipv6 = self.plan_ipv6(bridge, links);
        give_back_forwarding(&ipv6, bridge, &mut self.changed);
        if self.firewall.ipv6_guard != ipv6.guard {
            self.firewall.ipv6_guard.clone_from(&ipv6.guard);
            self.guarded = None;
        }
        if self.guarded.as_ref() != Some(&plan.guarded) {
            self.apply(&plan.guarded)?;
        }
        // What else it opens is closed by the rules.
        self.let_loopback_pass()?;
        apply_switches(&plan, &mut self.changed)?;
        apply_forwarding(&ipv6, &mut self.changed)?;
        Ok(describe(self.firewall.egress, bridge, &seen, &plan))
    }

    /// Has the tables filter what comes in by the uplink's port, which has the link index `port`, from the next
    /// [`Rules::settle`] on.
    pub(crate) fn know_uplink(&mut self, port: u32) {
        if self.firewall.uplink_index != Some(port) {
            self.firewall.uplink_index = Some(port);
            self.guarded = None;
        }
    }

    /// Sets the bridge with this index to believe nothing that guests say of routers, and to speak IPv6 or not. Blocks.
    ///
    /// # Errors
    /// If a switch cannot be set.
    pub(crate) fn silence(&mut self, bridge: u32) -> Result<(), NetworkError> {
        let Firewall { bridge: name, host_ipv6, .. } = &self.firewall;
        Ok(silence_bridge(bridge, name.as_str(), *host_ipv6, &mut self.changed)?)
    }

    /// What becomes of forwarding of IPv6: nothing where the network has none.
    fn plan_ipv6(&self, bridge: u32, links: &[Link]) -> Ipv6ForwardingPlan {
        let egress = match self.firewall.host_ipv6 {
            HostIpv6::Off | HostIpv6::Kept => Egress::Isolated,
            HostIpv6::Served(_) => self.firewall.egress,
        };
        ipv6::plan_forwarding(egress, &ipv6::observe_forwarding(bridge, links, &self.changed))
    }

    /// Looks whether our tables are as we made them; if not, [`Rules::settle`] makes them again. Blocks on `nft`.
    pub(crate) fn look_at_tables(&mut self) -> bool {
        let listing = self.firewall.listing();
        let is_whole = listing.as_ref().is_some_and(|listing| {
            Some(listing.rules()) == self.listing.as_deref()
                && listing.shows_every_port(&self.ports, &self.firewall.tables())
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

/// Has the kernel forget the connections of the guest that was behind `port` and is gone, so that what others go on sending does
/// not reach whoever has its address next. Not where one of the other `ports` has it already. Blocks.
fn forget_connections(ports: &Ports, index: u32, port: &BoundPort, ipv6: Option<Ipv6Subnet>) {
    let BoundPort { vm, identity, .. } = port;
    if ports.iter().any(|(other, held)| *other != index && held.identity.address == identity.address) {
        return;
    }
    let ipv6 = ipv6.map(|subnet| IpAddr::V6(subnet.address_of(identity.mac)));
    for address in [IpAddr::V4(identity.address)].into_iter().chain(ipv6) {
        match end_connections(address) {
            Ok(0) => {}
            Ok(count) => debug!(%vm, count, "ended the connections of a VM"),
            Err(error) => {
                debug!(%vm, %error, "connections of a VM end by themselves: the kernel does not tell them");
            }
        }
    }
}

/// Runs a step that blocks on the kernel or on `nft` away from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(step).await.map_err(|cause| NetworkError::Lost { operation, cause })
}

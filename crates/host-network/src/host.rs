//! The host network as its user sees it: attach and detach interfaces, tidy up, shut down.
//!
//! One caller at a time works on one interface; different interfaces are independent and may be attached at once.

mod attach;
mod attachable;
mod guests;
mod kept;
mod teardown;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tracing::warn;
use vm_model::{MacAddress, NetworkAccess, PortForward, VmId};

pub use self::attach::{AttachmentOutlook, AttachmentWarning, NicAttachment, Tap, UnusedHint};
pub use self::attachable::{NicDescription, check_access, check_nic};
pub use self::guests::guests_access;
pub(crate) use self::guests::listed_access;
pub use self::kept::{KeptNic, KeptNicProblem};
pub(crate) use self::kept::{find_tap, plan_kept};
pub(crate) use self::teardown::Remains;
pub use self::teardown::{Teardown, TeardownOutcome};
use crate::bound_port::BoundPort;
use crate::dhcp::SharedBindings;
use crate::exclusive::Exclusive;
use crate::names::tap_owner;
use crate::netlink::{Ipv6Stack, Link, Netlink};
use crate::port_filter::PortIdentity;
use crate::rules::{Rules, SharedRules};
use crate::start::{Started, start};
use crate::upkeep::Upkeep;
use crate::{ForwardConflict, LinkName, NetworkConfig, NetworkError, StartReport, UplinkProblem};

/// A TAP of ours that no known VM uses, and that has been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The link's name.
    pub tap: String,
    /// The VM that it was for.
    pub vm: VmId,
    /// That VM's interface.
    pub nic: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Interface {
    vm: VmId,
    nic: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Attached {
    /// The hardware address that DHCP knows it by; `None` where DHCP does not answer it.
    bound: Option<MacAddress>,
    /// The TAP; `None` while it is being made.
    tap: Option<AttachedTap>,
}

impl Attached {
    pub(crate) fn tap(&self) -> Option<&AttachedTap> {
        self.tap.as_ref()
    }
}

/// A TAP that should be a port of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachedTap {
    pub(crate) vm: VmId,
    pub(crate) nic: String,
    pub(crate) index: u32,
    pub(crate) name: LinkName,
    pub(crate) mtu: u16,
    /// Whose wire it is.
    pub(crate) identity: PortIdentity,
    /// What reaches its guest from beyond the network.
    pub(crate) access: NetworkAccess,
}

impl AttachedTap {
    /// Its port as our rules know it.
    pub(crate) fn bound_port(&self) -> BoundPort {
        BoundPort { vm: self.vm.clone(), identity: self.identity, access: self.access.clone() }
    }
}

/// What is told of an interface whose TAP `tap` is gone.
pub(crate) fn loss(vm: &VmId, nic: &str, tap: &LinkName) -> String {
    format!("the TAP {tap} was deleted, so {vm}/{nic} has no network until its VM starts again: restart {vm}")
}

/// What attaching and upkeep work on together.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NetworkConfig,
    pub(crate) netlink: Netlink,
    pub(crate) ipv6: Ipv6Stack,
    pub(crate) bindings: SharedBindings,
    pub(crate) rules: SharedRules,
    /// The bridge's index. Written by upkeep alone, where it had to make the bridge again.
    pub(crate) bridge: AtomicU32,
    /// Told when an interface was detached, so that upkeep stops missing it, or taken over, so that it is looked at.
    pub(crate) detached: Notify,
    /// What is attached through this value or was kept. Held for single look-ups and changes only; a lock of its own.
    attached: Mutex<HashMap<Interface, Attached>>,
    /// The interfaces of VMs that ran on whose TAPs are gone, until they are attached again or detached. As above.
    lost: Mutex<HashMap<Interface, LinkName>>,
    /// Why the bridge is without its uplink; written by upkeep. As above.
    uplink_problem: Mutex<Option<UplinkProblem>>,
}

impl Shared {
    pub(crate) fn bridge(&self) -> u32 {
        self.bridge.load(Ordering::Acquire)
    }

    /// The TAPs that are attached at this moment.
    pub(crate) fn taps(&self) -> Vec<AttachedTap> {
        self.lock().values().filter_map(|attached| attached.tap.clone()).collect()
    }

    /// What is told of each interface whose TAP was gone when its VM was taken over.
    pub(crate) fn losses(&self) -> Vec<String> {
        let lost = self.lost();
        let mut told: Vec<String> =
            lost.iter().map(|(Interface { vm, nic }, tap)| loss(vm, nic, tap)).collect();
        told.sort();
        told
    }

    /// Why the bridge is without its uplink at this moment.
    pub(crate) fn uplink_problem(&self) -> Option<UplinkProblem> {
        self.uplink_problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_uplink_problem(&self, problem: Option<UplinkProblem>) {
        *self.uplink_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<Interface, LinkName>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Interface, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running host network: a task keeps bridge, rules, forwarding and TAPs as they should be, whoever changes them.
/// Dropped without [`HostNetwork::shutdown`] it stops answering DHCP and leaves the rest.
#[derive(Debug)]
pub struct HostNetwork {
    shared: Arc<Shared>,
    upkeep: Upkeep,
    report: StartReport,
    /// Keeps other workers off.
    exclusive: Exclusive,
}

impl HostNetwork {
    /// Makes sure of the bridge, its address, forwarding, the nftables table and the DHCP server. Doing so again
    /// after an earlier run, or on a bridge that an administrator made, changes nothing that is as it should be.
    ///
    /// # Errors
    /// If the configuration, the host, another worker or the kernel stands against it; what was made before the error
    /// is removed again.
    pub async fn start(config: NetworkConfig) -> Result<Self, NetworkError> {
        Self::resume(config, Vec::new()).await
    }

    /// Starts the network like [`HostNetwork::start`] over what an earlier run left by [`Teardown::Keep`], or by being
    /// killed, under VMs that went on: `kept` names their interfaces. Frames and packets of theirs pass all the while.
    ///
    /// Each interface whose TAP is there counts as attached when this returns: DHCP answers its guest,
    /// [`HostNetwork::detach`] and [`Teardown::Remove`] remove it, [`HostNetwork::reap_orphans`] does not, and it is
    /// made a port of the bridge again, and up, within a second if it is not. What is not so is told by
    /// [`StartWarning::KeptNic`](crate::StartWarning::KeptNic), and no error.
    ///
    /// # Errors
    /// As for [`HostNetwork::start`]; but while a TAP of `kept` is there, what was made before the error stays, and so
    /// does what the earlier run left.
    pub async fn resume(config: NetworkConfig, kept: Vec<KeptNic>) -> Result<Self, NetworkError> {
        let started = start(&config, kept).await?;
        let Started { exclusive, netlink, bridge, ipv6, mtu, bindings, .. } = started;
        let Started { attached, lost, holdings, events, report, uplink_problem, .. } = started;
        let shared = Arc::new(Shared {
            config: NetworkConfig { mtu, ..config },
            netlink,
            ipv6,
            bindings,
            rules: holdings.rules.clone(),
            bridge: AtomicU32::new(bridge),
            detached: Notify::new(),
            attached: Mutex::new(attached),
            lost: Mutex::new(lost),
            uplink_problem: Mutex::new(uplink_problem),
        });
        let upkeep = Upkeep::start(Arc::clone(&shared), holdings, events);
        Ok(Self { shared, upkeep, report, exclusive })
    }

    /// What is wrong with the network at this moment and cannot be mended here: a plain sentence each. Empty when all is
    /// well; told within a second of a change.
    pub fn watch_degraded(&self) -> watch::Receiver<Vec<String>> {
        self.upkeep.watch_degraded()
    }

    /// What starting found and did.
    pub fn report(&self) -> &StartReport {
        &self.report
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &NetworkConfig {
        &self.shared.config
    }

    /// Whether the ports of the host that `vm` wants lead to no other VM at this moment. Blocks; for threads that may.
    ///
    /// # Errors
    /// The first that does.
    pub fn check_forwards(&self, vm: &VmId, forwards: &[PortForward]) -> Result<(), ForwardConflict> {
        self.shared.rules.run_blocking(|rules| rules.check_forwards(vm, forwards))
    }

    /// Removes an interface's TAP, also when its descriptor is still open somewhere, and forgets its DHCP binding.
    /// An interface that is not attached is no error.
    ///
    /// # Errors
    /// If the kernel refuses; the interface counts as attached still, and DHCP answers it no more.
    pub async fn detach(&self, vm: &VmId, nic: &str) -> Result<(), NetworkError> {
        let interface = Interface { vm: vm.clone(), nic: nic.to_owned() };
        if self.shared.lost().remove(&interface).is_some() {
            self.shared.detached.notify_one();
        }
        let Some(Attached { bound, tap: Some(tap) }) = self.shared.lock().get(&interface).cloned() else {
            return Ok(());
        };
        if let Some(mac) = bound {
            self.shared.bindings.change(|bindings| bindings.remove(mac));
        }
        let index = tap.index;
        if !tap.access.forwards.is_empty() {
            // While the guest is there still: nothing is led to where nobody is.
            let withdraw = move |rules: &mut Rules| rules.withdraw_forwards(index);
            self.shared.rules.run("end the forwards to a VM", withdraw).await?;
        }
        self.shared.netlink.delete(index, tap.name.as_str()).await?;
        let release = "take a TAP out of the packet filter";
        self.shared.rules.run(release, move |rules| rules.release_port(index)).await?;
        self.shared.lock().remove(&interface);
        self.shared.detached.notify_one();
        Ok(())
    }

    /// Removes every TAP of ours whose VM is none of `keep`, except those attached through this value
    /// or kept by [`HostNetwork::resume`]. Such TAPs
    /// are held open by a process that was left behind.
    ///
    /// # Errors
    /// If the kernel refuses; the remaining orphans stay.
    pub async fn reap_orphans(&self, keep: &BTreeSet<VmId>) -> Result<Vec<Orphan>, NetworkError> {
        let links = self.shared.netlink.links().await?;
        let mut reaped = Vec::new();
        for (index, orphan) in orphans(&links, self.shared.bridge(), keep) {
            if self.has_tap(index) {
                continue;
            }
            self.shared.netlink.delete(index, &orphan.tap).await?;
            let release = "take a TAP out of the packet filter";
            self.shared.rules.run(release, move |rules| rules.release_port(index)).await?;
            warn!(tap = %orphan.tap, vm_id = %orphan.vm, nic = %orphan.nic, "removed a TAP of an unknown VM");
            reaped.push(orphan);
        }
        Ok(reaped)
    }

    /// Whether anything is on the bridge, or is to be, beside its uplink: VMs, whoever runs them, or links of others.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    pub async fn is_in_use(&self) -> Result<bool, NetworkError> {
        let is_attached = !self.shared.lock().is_empty();
        let (links, bridge) = (self.shared.netlink.links().await?, self.shared.bridge());
        let ports = links.iter().filter(|link| link.controller == Some(bridge)).count();
        Ok(is_attached || ports > usize::from(self.shared.config.uplink.is_some()))
    }

    fn has_tap(&self, index: u32) -> bool {
        self.shared.taps().iter().any(|tap| tap.index == index)
    }
}

/// The TAPs that bear our mark, belong to none of `keep`, and are on this bridge or on none. Those on another
/// bridge are another worker's.
fn orphans(links: &[Link], bridge: u32, keep: &BTreeSet<VmId>) -> Vec<(u32, Orphan)> {
    links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("tun"))
        .filter(|link| link.controller.is_none_or(|controller| controller == bridge))
        .filter_map(|link| {
            let (vm, nic) = tap_owner(link.alias.as_deref()?)?;
            let nic = nic.to_owned();
            let tap = link.name.clone();
            (!keep.contains(&vm)).then_some((link.index, Orphan { tap, vm, nic }))
        })
        .collect()
}

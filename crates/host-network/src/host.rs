//! The host network as its user sees it: attach and detach interfaces, tidy up, shut down.
//!
//! One caller at a time works on one interface; different interfaces are independent and may be attached at once.

mod attach;
mod teardown;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;
use vm_model::{MacAddress, VmId};

pub use self::attach::{NicAttachment, Tap, UnusedHint};
pub use self::teardown::{Teardown, TeardownOutcome};
use crate::names::tap_owner;
use crate::netlink::Link;
use crate::start::{Started, start};
use crate::{LinkName, NetworkConfig, NetworkError, StartReport};

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
struct Interface {
    vm: VmId,
    nic: String,
}

#[derive(Clone, Debug)]
struct Attached {
    mac: MacAddress,
    /// The TAP's index and name; `None` while it is being made.
    tap: Option<(u32, LinkName)>,
}

/// The running host network. Dropped without [`HostNetwork::shutdown`] it stops answering DHCP and leaves the rest.
#[derive(Debug)]
pub struct HostNetwork {
    config: NetworkConfig,
    started: Started,
    /// What is attached through this value. Held for single look-ups and changes only; a lock of its own.
    attached: Mutex<HashMap<Interface, Attached>>,
}

impl HostNetwork {
    /// Makes sure of the bridge, its address, forwarding, the nftables table and the DHCP server. Doing so again
    /// after an earlier run, or on a bridge that an administrator made, changes nothing that is as it should be.
    ///
    /// # Errors
    /// If the configuration, the host or the kernel stands against it; a bridge or address made before the error
    /// is removed again.
    pub async fn start(config: NetworkConfig) -> Result<Self, NetworkError> {
        let started = start(&config).await?;
        let config = NetworkConfig { mtu: started.mtu, ..config };
        Ok(Self { config, started, attached: Mutex::default() })
    }

    /// What starting found and did.
    pub fn report(&self) -> &StartReport {
        &self.started.report
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Removes an interface's TAP, also when its descriptor is still open somewhere, and forgets its DHCP binding.
    /// An interface that is not attached is no error.
    ///
    /// # Errors
    /// If the kernel refuses; the interface counts as attached still, and DHCP answers it no more.
    pub async fn detach(&self, vm: &VmId, nic: &str) -> Result<(), NetworkError> {
        let interface = Interface { vm: vm.clone(), nic: nic.to_owned() };
        let Some(Attached { mac, tap: Some((index, name)) }) = self.lock().get(&interface).cloned() else {
            return Ok(());
        };
        self.started.bindings.change(|bindings| bindings.remove(mac));
        self.started.netlink.delete(index, name.as_str()).await?;
        self.lock().remove(&interface);
        Ok(())
    }

    /// Removes every TAP of ours whose VM is none of `keep`, except those attached through this value. Such TAPs
    /// are held open by a process that was left behind.
    ///
    /// # Errors
    /// If the kernel refuses; the remaining orphans stay.
    pub async fn reap_orphans(&self, keep: &BTreeSet<VmId>) -> Result<Vec<Orphan>, NetworkError> {
        let links = self.started.netlink.links().await?;
        let mut reaped = Vec::new();
        for (index, orphan) in orphans(&links, self.started.bridge, keep) {
            if self.has_tap(index) {
                continue;
            }
            self.started.netlink.delete(index, &orphan.tap).await?;
            warn!(tap = %orphan.tap, vm_id = %orphan.vm, nic = %orphan.nic, "removed a TAP of an unknown VM");
            reaped.push(orphan);
        }
        Ok(reaped)
    }

    fn has_tap(&self, index: u32) -> bool {
        self.lock().values().any(|attached| attached.tap.as_ref().is_some_and(|(own, _)| *own == index))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Interface, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
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

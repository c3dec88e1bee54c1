//! Interfaces of VMs that ran on while no worker did: which of their TAPs are still there, and what DHCP tells their
//! guests.
//!
//! A VM in a process of its own holds its TAPs open, so they outlive the worker. Deciding is pure; a TAP that is there
//! counts as attached from then on, and upkeep makes it a port of the bridge again, and up, if it is not.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use thiserror::Error;
use vm_model::{MacAddress, NetworkAccess, VmId};

use super::attachable::{binding_for, check, taken};
use super::{Attached, AttachedTap, HostNetwork, Interface, NicAttachment};
use crate::config::check_mtu;
use crate::dhcp::Bindings;
use crate::names::tap_alias;
use crate::netlink::Link;
use crate::port_filter::PortIdentity;
use crate::rules::Rules;
use crate::start::StartWarning;
use crate::{AttachmentProblem, LinkName, NetworkConfig, NetworkError};

/// An interface that an earlier run attached, and whose TAP its VM still holds open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNic {
    /// The VM.
    pub vm: VmId,
    /// The interface's name, unique in its VM.
    pub nic: String,
    /// The guest's hardware address.
    pub mac: MacAddress,
    /// The guest's address; DHCP tells it.
    pub address: Ipv4Addr,
    /// The netmask told with it; `None` tells the network's.
    pub mask: Option<Ipv4Addr>,
    /// The MTU, not above the bridge's; `None` takes the bridge's.
    pub mtu: Option<u16>,
    /// The name that its TAP was given.
    pub tap: LinkName,
    /// What passes between the guest and what lies beyond its network.
    pub access: NetworkAccess,
}

/// Why an interface of a VM that ran on is not, or not wholly, as it was. The sentence goes on after the TAP's and the
/// interface's names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeptNicProblem {
    /// There is no link of that name. The interface is not attached.
    #[error("is gone: the VM has no network there until it starts again")]
    Gone,
    /// The link of that name is no TAP of this interface, so it is left alone. The interface is not attached.
    #[error("is gone, and {} has its name: the VM has no network there until it starts again", named(.kind, .alias))]
    Replaced {
        /// What kind of link has the name; `None` for a physical one.
        kind: Option<String>,
        /// Its alias.
        alias: Option<String>,
    },
    /// The interface was named before, with another TAP. That one counts.
    #[error("is left alone: the interface was named before with the TAP {first}")]
    Repeated {
        /// The TAP that was named first.
        first: LinkName,
    },
    /// The TAP is attached, but DHCP does not answer the guest.
    #[error("is attached, but the guest cannot renew its address: {0}")]
    NoDhcp(AttachmentProblem),
}

/// What becomes of the interfaces that were kept.
#[derive(Debug, Default)]
pub(crate) struct KeptNics {
    pub(crate) attached: HashMap<Interface, Attached>,
    pub(crate) bindings: Bindings,
    /// The interfaces whose TAPs are gone, with the names that these had.
    pub(crate) lost: HashMap<Interface, LinkName>,
    pub(crate) warnings: Vec<StartWarning>,
}

/// Decides by the links that were seen. `config` has the MTU that the bridge really has.
pub(crate) fn plan_kept(config: &NetworkConfig, links: &[Link], kept: Vec<KeptNic>) -> KeptNics {
    let mut plan = KeptNics::default();
    for nic in kept {
        if let Err(problem) = plan.take_over(config, links, &nic) {
            let KeptNic { vm, nic, tap, .. } = nic;
            match problem {
                KeptNicProblem::Gone | KeptNicProblem::Replaced { .. } => {
                    let interface = Interface { vm: vm.clone(), nic: nic.clone() };
                    plan.lost.insert(interface, tap.clone());
                }
                KeptNicProblem::Repeated { .. } | KeptNicProblem::NoDhcp(_) => {}
            }
            plan.warnings.push(StartWarning::KeptNic { vm, nic, tap, problem });
        }
    }
    plan
}

impl HostNetwork {
    /// Takes over the interface of a VM that ran on and was not known to when the network was resumed. From then on it counts
    /// as attached, as those of [`HostNetwork::resume`] do; what is not so is answered.
    ///
    /// # Errors
    /// The host's links cannot be listed, or the rules for its TAP cannot be set.
    pub async fn keep(&self, kept: KeptNic) -> Result<Option<KeptNicProblem>, NetworkError> {
        let links = self.shared.netlink.links().await?;
        let KeptNics { attached, bindings, lost, warnings } =
            plan_kept(&self.shared.config, &links, vec![kept]);
        self.shared.lost().extend(lost);
        let mut problem = warnings.into_iter().find_map(|warning| match warning {
            StartWarning::KeptNic { problem, .. } => Some(problem),
            StartWarning::Bridge(_)
            | StartWarning::ForwardDrop { .. }
            | StartWarning::NoNames(_)
            | StartWarning::NoNameServer
            | StartWarning::ConnectionsNotCounted => None,
        });
        for (interface, mut nic) in attached {
            if let Some(first) = self.shared.lock().get(&interface).and_then(|attached| attached.tap.clone())
            {
                return Ok(Some(KeptNicProblem::Repeated { first: first.name }));
            }
            if let Some((mac, binding)) = nic.bound.and_then(|mac| Some((mac, bindings.get(mac)?.clone())))
                && let Err(holder) =
                    self.shared.bindings.change(|bindings| bindings.insert(mac, binding.clone()))
            {
                nic.bound = None;
                problem = Some(KeptNicProblem::NoDhcp(taken(mac, binding.address, &holder)));
            }
            if let Some(tap) = &nic.tap {
                let (index, bound) = (tap.index, tap.bound_port());
                let bind = move |rules: &mut Rules| rules.bind_port(index, bound);
                self.shared.rules.run("bind a TAP to its guest", bind).await??;
            }
            self.shared.lock().insert(interface, nic);
        }
        // Upkeep looks whether it is a port of the bridge.
        self.shared.detached.notify_one();
        Ok(problem)
    }
}

impl KeptNics {
    fn take_over(
        &mut self,
        config: &NetworkConfig,
        links: &[Link],
        kept: &KeptNic,
    ) -> Result<(), KeptNicProblem> {
        let index = find_tap(links, kept)?;
        let interface = Interface { vm: kept.vm.clone(), nic: kept.nic.clone() };
        if let Some(first) = self.attached.get(&interface).and_then(|attached| attached.tap.as_ref()) {
            return Err(KeptNicProblem::Repeated { first: first.name.clone() });
        }
        let bound = self.bind(config, kept);
        let mtu = kept.mtu.filter(|mtu| check_mtu(*mtu).is_ok()).unwrap_or(config.mtu).min(config.mtu);
        let (vm, nic, name) = (kept.vm.clone(), kept.nic.clone(), kept.tap.clone());
        let identity = PortIdentity { mac: kept.mac, address: kept.address };
        let access = kept.access.clone();
        let tap = AttachedTap { vm, nic, index, name, mtu, identity, access };
        self.attached.insert(interface, Attached { bound: bound.as_ref().ok().copied(), tap: Some(tap) });
        bound.map(|_| ()).map_err(KeptNicProblem::NoDhcp)
    }

    /// Has DHCP answer the guest as it did before.
    fn bind(&mut self, config: &NetworkConfig, kept: &KeptNic) -> Result<MacAddress, AttachmentProblem> {
        let KeptNic { vm, nic, mac, address, mask, mtu, tap: _, access } = kept.clone();
        let attachment = NicAttachment {
            vm,
            nic,
            mac,
            address,
            mask,
            mtu,
            tap_hint: None,
            queues: NonZeroU16::MIN,
            access,
        };
        check(config, &attachment)?;
        let binding = binding_for(config, &attachment);
        self.bindings.insert(mac, binding).map_err(|holder| taken(mac, address, &holder))?;
        Ok(mac)
    }
}

/// The index of the interface's TAP. The alias says whose it is: its name may have gone to another link since, and it may
/// have been renamed.
pub(crate) fn find_tap(links: &[Link], kept: &KeptNic) -> Result<u32, KeptNicProblem> {
    let alias = tap_alias(&kept.vm, &kept.nic);
    let is_its_tap =
        |link: &&Link| link.kind.as_deref() == Some("tun") && link.alias.as_deref() == Some(alias.as_str());
    let named = links.iter().find(|link| link.name == kept.tap.as_str());
    if let Some(tap) = named.filter(is_its_tap).or_else(|| links.iter().find(is_its_tap)) {
        return Ok(tap.index);
    }
    Err(named.map_or(KeptNicProblem::Gone, |link| KeptNicProblem::Replaced {
        kind: link.kind.clone(),
        alias: link.alias.clone(),
    }))
}

fn named(kind: &Option<String>, alias: &Option<String>) -> String {
    let kind = kind.as_deref().unwrap_or("physical");
    match alias {
        Some(alias) => format!("a {kind} link with the alias {alias:?}"),
        None => format!("a {kind} link without an alias"),
    }
}

#[cfg(test)]
mod tests;

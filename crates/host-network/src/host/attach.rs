//! Attaching one interface: checks, its place and DHCP binding, its TAP, the bridge.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use thiserror::Error;
use vm_model::{MacAddress, NetworkAccess, PortForward, VmId};

use super::attachable::{binding_for, check, router_outside_mask, taken};
use super::{Attached, AttachedTap, HostNetwork, Interface, Shared};
use crate::claimed_names::claim_on;
use crate::names::tap_alias;
use crate::netlink::Port;
use crate::port_filter::PortIdentity;
use crate::rules::{Rules, blocking};
use crate::start::{UnknownNic, no_uplink};
use crate::tap::{TapRequest, create_tap};
use crate::{
    AttachmentProblem, ForwardWarning, InvalidLinkName, LinkName, NetworkError, UdpSegmentation,
    find_forward_elsewhere, find_taken_port,
};

/// One interface to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicAttachment {
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
    /// A name for the TAP, used when it is valid and free and no other software claims names like it.
    pub tap_hint: Option<String>,
    /// How many queues the TAP spreads frames over.
    pub queues: NonZeroU16,
    /// What passes between the guest and what lies beyond its network.
    pub access: NetworkAccess,
}

/// An open TAP, up and attached to the bridge. It vanishes when the last of its descriptors is closed.
#[derive(Debug)]
pub struct Tap {
    /// The link's name.
    pub name: LinkName,
    /// The link's index.
    pub index: u32,
    /// The queues, as many as were asked for, all in use: non-blocking, close-on-exec, each frame behind a header of
    /// [`VNET_HEADER_BYTES`](crate::VNET_HEADER_BYTES), with checksum and TCP segmentation offload on. A device
    /// whose guest accepts less must turn the rest off.
    pub fds: Vec<OwnedFd>,
    /// Whether UDP segmentation offload can be turned on too.
    pub udp_segmentation: UdpSegmentation,
    /// What is not as the attachment may have meant it.
    pub warnings: Vec<AttachmentWarning>,
}

/// Something about an attachment that was done otherwise than wished, or that the guest may not cope with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttachmentWarning {
    /// The TAP has another name than the hinted one.
    #[error("the wished TAP name is not used: {0}")]
    UnusedHint(UnusedHint),
    /// Something about a port of the host that leads to it.
    #[error(transparent)]
    Forward(#[from] ForwardWarning),
    /// The guest is told a mask by which its router is on another network.
    #[error(
        "the mask {mask} puts {address} and its router {gateway} on different networks: a guest reaches beyond its own \
         only if it follows the static routes that DHCP tells it (RFC 3442)"
    )]
    RouterOutsideMask {
        /// The mask as wished.
        mask: Ipv4Addr,
        /// The guest's address.
        address: Ipv4Addr,
        /// The router's address.
        gateway: Ipv4Addr,
    },
}

/// Why a hinted name was not given to a TAP.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnusedHint {
    /// It cannot be a link's name.
    #[error("{0}")]
    Invalid(InvalidLinkName),
    /// Other software takes links of such names for its own.
    #[error("{hint} is a name like {glob}, which belong to {owner}")]
    Claimed {
        /// The name.
        hint: LinkName,
        /// The names that are claimed.
        glob: &'static str,
        /// Who claims them.
        owner: &'static str,
    },
    /// Another link has it.
    #[error("another interface of this host is called {hint}")]
    Taken {
        /// The name.
        hint: LinkName,
    },
}

/// Tells whether guests could be attached to a network at this moment, as long as it is there.
#[derive(Clone, Debug)]
pub struct AttachmentOutlook(Weak<Shared>);

impl AttachmentOutlook {
    /// Whether they could, as far as that is known without trying.
    ///
    /// # Errors
    /// The network waits for its uplink.
    pub fn check(&self) -> Result<(), NetworkError> {
        self.0.upgrade().map_or(Ok(()), |shared| shared.refuse_without_uplink())
    }
}

impl Shared {
    /// Refuses a guest that would be on a wire which leads nowhere: its VM waits for the uplink.
    fn refuse_without_uplink(&self) -> Result<(), NetworkError> {
        match (&self.config.uplink, self.uplink_problem()) {
            (Some(uplink), Some(problem)) => Err(no_uplink(&self.config, uplink, problem)),
            (Some(_), None) | (None, _) => Ok(()),
        }
    }
}

impl HostNetwork {
    /// For who wants to know whether an attachment would succeed.
    pub fn attachment_outlook(&self) -> AttachmentOutlook {
        AttachmentOutlook(Arc::downgrade(&self.shared))
    }

    /// Creates a TAP for an interface, attaches it to the bridge and has DHCP tell the guest its address.
    /// Dropping the future undoes what was done.
    ///
    /// # Errors
    /// If the attachment is not possible as described, or the kernel refuses; nothing is left then.
    pub async fn attach(&self, attachment: NicAttachment) -> Result<Tap, NetworkError> {
        self.shared.refuse_without_uplink()?;
        self.refuse_unnamed(&attachment).await?;
        self.refuse_taken(&attachment.access.forwards).await?;
        let reservation = self.reserve(&attachment)?;
        let off_link = router_outside_mask(&attachment, &self.shared.config);
        let NicAttachment { vm, nic, mac, address, mtu, tap_hint, queues, access, .. } = attachment;
        let identity = PortIdentity { mac, address };
        let (hint, unusable) = match tap_hint.as_deref().map(usable_hint).transpose() {
            Ok(hint) => (hint, None),
            Err(unusable) => (None, Some(unusable)),
        };
        let (owner, interface, wanted) = (vm.clone(), nic.clone(), hint.clone());
        let create = move || create_tap(TapRequest { vm: &owner, nic: &interface, hint: wanted, queues });
        let tap = blocking("create a TAP", create).await?.map_err(|cause| NetworkError::Tap {
            vm: vm.clone(),
            nic: nic.clone(),
            cause,
        })?;
        let mtu = mtu.unwrap_or(self.shared.config.mtu);
        let (index, name) = (tap.index, tap.name.clone());
        let attached = AttachedTap { vm, nic, index, name, mtu, identity, access };
        let bound = attached.bound_port();
        let bind = move |rules: &mut Rules| rules.bind_port(index, bound);
        let forward_warnings = self.shared.rules.run("bind a TAP to its guest", bind).await??;
        if let Err(problem) = self.plug_in(&attached).await {
            let withdraw = move |rules: &mut Rules| rules.withdraw_access(index);
            // What went wrong first is what is told.
            let _ = self.shared.rules.run("end what leads to a VM", withdraw).await;
            return Err(problem);
        }
        let interface = Interface { vm: attached.vm.clone(), nic: attached.nic.clone() };
        reservation.keep(attached);
        if self.shared.lost().remove(&interface).is_some() {
            self.shared.detached.notify_one();
        }
        let taken = hint.filter(|hint| *hint != tap.name).map(|hint| UnusedHint::Taken { hint });
        let unused = unusable.or(taken).map(AttachmentWarning::UnusedHint);
        Ok(Tap {
            name: tap.name,
            index: tap.index,
            fds: tap.fds,
            udp_segmentation: tap.udp_segmentation,
            warnings: unused
                .into_iter()
                .chain(off_link)
                .chain(forward_warnings.into_iter().map(AttachmentWarning::Forward))
                .collect(),
        })
    }

    /// Makes a TAP a port of the bridge, bound to its guest, and brings it up.
    async fn plug_in(&self, tap: &AttachedTap) -> Result<(), NetworkError> {
        let AttachedTap { vm, nic, index, name, mtu, identity, .. } = tap;
        let (netlink, config) = (&self.shared.netlink, &self.shared.config);
        let port = Port { index: *index, name: name.as_str(), alias: &tap_alias(vm, nic), mtu: *mtu };
        netlink.make_port(&port, self.shared.bridge(), self.shared.ipv6).await.map_err(
            |error| match error.errno() {
                Some(libc::EXFULL) => NetworkError::BridgeFull {
                    vm: vm.clone(),
                    nic: nic.clone(),
                    bridge: config.bridge.clone(),
                },
                _ => error.into(),
            },
        )?;
        netlink.bind_port(*index, name.as_str(), identity.mac, config.between_vms).await?;
        Ok(netlink.set_up(*index, name.as_str()).await?)
    }

    /// Refuses forwards that would hide a program of this host, or be hidden by another worker's.
    async fn refuse_taken(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        if forwards.is_empty() {
            return Ok(());
        }
        let (forwards, own) = (forwards.to_vec(), self.shared.config.gateway);
        let tables = self.shared.config.own_tables();
        let look = move || {
            let taken = find_taken_port(&forwards, &[own]).map(NetworkError::from);
            taken.or_else(|| find_forward_elsewhere(&forwards, &tables).map(NetworkError::from))
        };
        blocking("look who has ports of this host", look).await?.map_or(Ok(()), Err)
    }

    /// Refuses what another VM's interface has that nobody named at the start, as long as its TAP is there: its guest goes on.
    async fn refuse_unnamed(&self, attachment: &NicAttachment) -> Result<(), NetworkError> {
        let NicAttachment { vm, nic, mac, address, .. } = attachment;
        let has_same =
            |unknown: &&UnknownNic| unknown.vm != *vm && (unknown.address == *address || unknown.mac == *mac);
        let Some(holder) = self.report.unknown.iter().find(has_same) else { return Ok(()) };
        let alias = tap_alias(&holder.vm, &holder.nic);
        let links = self.shared.netlink.links().await?;
        if !links.iter().any(|link| link.alias.as_deref() == Some(alias.as_str())) {
            return Ok(());
        }
        let what = if holder.address == *address {
            format!("the address {address}")
        } else {
            format!("the MAC address {mac}")
        };
        let problem = AttachmentProblem::Taken { what, holder: format!("{}/{}", holder.vm, holder.nic) };
        Err(NetworkError::Attachment { vm: vm.clone(), nic: nic.clone(), problem })
    }

    /// Checks an attachment, takes its place among the attached and registers its DHCP binding.
    fn reserve(&self, attachment: &NicAttachment) -> Result<Reservation<'_>, NetworkError> {
        let refused = |problem| NetworkError::Attachment {
            vm: attachment.vm.clone(),
            nic: attachment.nic.clone(),
            problem,
        };
        check(&self.shared.config, attachment).map_err(refused)?;
        let interface = Interface { vm: attachment.vm.clone(), nic: attachment.nic.clone() };
        let mac = attachment.mac;
        {
            let mut attached = self.shared.lock();
            if attached.contains_key(&interface) {
                return Err(refused(AttachmentProblem::Attached));
            }
            attached.insert(interface.clone(), Attached { bound: Some(mac), tap: None });
        }
        let binding = binding_for(&self.shared.config, attachment);
        if let Err(holder) = self.shared.bindings.change(|bindings| bindings.insert(mac, binding)) {
            self.shared.lock().remove(&interface);
            return Err(refused(taken(mac, attachment.address, &holder)));
        }
        Ok(Reservation { network: self, interface: Some(interface), mac })
    }
}

/// A place among the attached, given up when dropped before [`Reservation::keep`].
struct Reservation<'a> {
    network: &'a HostNetwork,
    interface: Option<Interface>,
    mac: MacAddress,
}

impl Reservation<'_> {
    fn keep(mut self, tap: AttachedTap) {
        if let Some(interface) = self.interface.take() {
            let attached = Attached { bound: Some(self.mac), tap: Some(tap) };
            self.network.shared.lock().insert(interface, attached);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(interface) = self.interface.take() {
            self.network.shared.bindings.change(|bindings| bindings.remove(self.mac));
            self.network.shared.lock().remove(&interface);
        }
    }
}

fn usable_hint(hint: &str) -> Result<LinkName, UnusedHint> {
    let hint = LinkName::parse(hint).map_err(UnusedHint::Invalid)?;
    match claim_on(&hint) {
        Some((glob, owner)) => Err(UnusedHint::Claimed { hint, glob, owner }),
        None => Ok(hint),
    }
}

//! Whether an interface can be attached as described, and what its guest is told. Pure.

use std::net::Ipv4Addr;

use vm_model::{MacAddress, NetworkAccess};

use super::attach::{AttachmentWarning, NicAttachment};
use crate::config::check_mtu;
use crate::dhcp::Binding;
use crate::names::bridge_mac;
use crate::{AttachmentProblem, GuestAddresses, NetworkConfig};

/// An MTU that guests assume without being told.
const ETHERNET_MTU: u16 = 1500;

/// That the mask of an attachment puts the guest and its router on different networks.
pub(super) fn router_outside_mask(
    attachment: &NicAttachment,
    config: &NetworkConfig,
) -> Option<AttachmentWarning> {
    let (mask, address) = (attachment.mask?, attachment.address);
    let gateway = config.router.address(config.gateway)?;
    (address & mask != gateway & mask).then_some(AttachmentWarning::RouterOutsideMask {
        mask,
        address,
        gateway,
    })
}

/// What DHCP tells the guest of an attachment that [`check`] let pass.
pub(super) fn binding_for(config: &NetworkConfig, attachment: &NicAttachment) -> Binding {
    Binding {
        vm: attachment.vm.clone(),
        nic: attachment.nic.clone(),
        address: attachment.address,
        mask: attachment.mask,
        mtu: attachment.mtu.or((config.mtu != ETHERNET_MTU).then_some(config.mtu)),
    }
}

/// That `holder` has the address that an attachment asks for, or else its `mac`.
pub(super) fn taken(mac: MacAddress, address: Ipv4Addr, holder: &Binding) -> AttachmentProblem {
    AttachmentProblem::Taken {
        what: if holder.address == address {
            format!("the address {address}")
        } else {
            format!("the MAC address {mac}")
        },
        holder: format!("{}/{}", holder.vm, holder.nic),
    }
}

/// What the description of an interface says that its network may refuse.
#[derive(Clone, Copy, Debug)]
pub struct NicDescription<'a> {
    /// The guest's hardware address, where one is wished for.
    pub mac: Option<MacAddress>,
    /// The MTU; `None` takes the bridge's.
    pub mtu: Option<u16>,
    /// What passes between the guest and what lies beyond its network.
    pub access: &'a NetworkAccess,
}

/// Whether a network of `config` can have an interface that is described so. Looks at nothing of the host, so it can be asked
/// before there is a network.
///
/// # Errors
/// What it cannot have, or cannot keep to.
pub fn check_nic(config: &NetworkConfig, nic: &NicDescription<'_>) -> Result<(), AttachmentProblem> {
    if let Some(mac) = nic.mac.filter(|mac| !mac.is_unicast() || *mac == bridge_mac(&config.bridge)) {
        return Err(AttachmentProblem::Mac { mac });
    }
    check_access(config, nic.access)?;
    match nic.mtu {
        Some(mtu) if check_mtu(mtu).is_err() || mtu > config.mtu => {
            Err(AttachmentProblem::Mtu { mtu, limit: config.mtu })
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a network of `config` can keep to what passes between a guest and what lies beyond its network.
///
/// # Errors
/// What it cannot keep to.
pub fn check_access(config: &NetworkConfig, access: &NetworkAccess) -> Result<(), AttachmentProblem> {
    if let (Some(uplink), Some(_)) = (&config.uplink, &access.egress) {
        return Err(AttachmentProblem::EgressByUplink { uplink: uplink.clone() });
    }
    if config.addresses == GuestAddresses::External && !access.forwards.is_empty() {
        return Err(AttachmentProblem::PortsWithoutAddress);
    }
    Ok(())
}

/// Whether an interface can be attached as described.
pub(super) fn check(config: &NetworkConfig, attachment: &NicAttachment) -> Result<(), AttachmentProblem> {
    let subnet = config.network();
    let address = attachment.address;
    let router = config.router.address(config.gateway).unwrap_or(config.gateway);
    let is_reserved = [config.gateway, router, subnet.network(), subnet.broadcast()].contains(&address);
    if is_reserved || !subnet.contains(address) {
        return Err(AttachmentProblem::Address { address, subnet });
    }
    if let Some(mask) = attachment.mask
        && mask.to_bits().leading_ones() != mask.to_bits().count_ones()
    {
        return Err(AttachmentProblem::Mask { mask });
    }
    let NicAttachment { mac, mtu, access, .. } = attachment;
    check_nic(config, &NicDescription { mac: Some(*mac), mtu: *mtu, access })
}

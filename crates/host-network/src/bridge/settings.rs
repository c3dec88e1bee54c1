//! The settings of a bridge: what ours is kept at, and what an adopted one may bring along.
//!
//! An adopted bridge has an owner, so a setting of it is changed only where VMs could not live with it, refused where
//! the change would be the owner's to make, and told where VMs will notice it.

use std::fmt;

use ipnetwork::Ipv6Network;
use thiserror::Error;
use vm_model::Ipv6Subnet;

use super::{BridgeAction, BridgeOrigin, BridgePlan, Observed};
use crate::changed_settings::AdoptedBridge;
use crate::names::tap_owner;
use crate::netlink::{BridgeSetting, Ipv6Assignment, Link};
use crate::{NetworkConfig, NetworkError};

/// How long our bridge remembers the port of an address, in hundredths of a second: the kernel's default.
const AGEING_TIME: u32 = 30_000;
/// The smallest MTU that every IPv4 host must accept (RFC 791).
const SMALLEST_MTU: u32 = 576;

/// Why a link cannot be the VMs' bridge.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BridgeProblem {
    /// It is a link of another kind.
    #[error("is no bridge but a {kind} link: remove it or configure another bridge name")]
    NotABridge {
        /// What has that name.
        kind: String,
    },
    /// It drops what comes in by a new port.
    #[error(
        "is a bridge that filters VLANs and puts new ports into none, so that VMs' frames are dropped: give it a \
         vlan_default_pvid, turn vlan_filtering off, or configure another bridge name"
    )]
    NoVlanForPorts,
    /// Somebody else gives IPv6 addresses out on it.
    #[error(
        "is a bridge with the IPv6 address {address}: leave the IPv6 network of VMs out, or configure another bridge name"
    )]
    HasIpv6 {
        /// Its address.
        address: Ipv6Network,
    },
    /// Another link has an address of the VMs' IPv6 network.
    #[error("cannot have the IPv6 network {subnet}: another link of this host has the address {address}")]
    Ipv6InUse {
        /// The network as configured.
        subnet: Ipv6Subnet,
        /// The other link's address.
        address: Ipv6Network,
    },
    /// The kernel has no IPv6.
    #[error("cannot have an IPv6 network: IPv6 is off in this host's kernel")]
    NoIpv6,
    /// It lets no IPv4 packets of the smallest size through.
    #[error("is a bridge with an MTU of {mtu}: raise it to 576 or more, or configure another bridge name")]
    Mtu {
        /// Its MTU.
        mtu: u32,
    },
}

/// What an adopted bridge brings along that VMs or the host will notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeNote {
    /// A new port passes no frames for a while.
    SpanningTree {
        /// For how long, in seconds.
        seconds: u32,
    },
    /// The bridge remembered no addresses, and now does.
    AgeingTime,
    /// Its MTU is smaller than the configured one and is used in its place.
    Mtu {
        /// Its MTU.
        mtu: u16,
    },
    /// Others' links are ports of it.
    OtherPorts {
        /// Those links.
        ports: Vec<String>,
    },
    /// Frames meant for the next switch are passed on between VMs and what else is attached.
    GroupForwardMask {
        /// The setting.
        mask: u16,
    },
    /// The host speaks IPv6 on it, and so believes router advertisements of VMs where it believes any.
    Ipv6,
}

impl fmt::Display for BridgeNote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpanningTree { seconds } => write!(
                formatter,
                "the bridge runs the spanning tree protocol: a VM's frames pass {seconds} s after it was attached"
            ),
            Self::AgeingTime => formatter.write_str(
                "the bridge had an ageing time of 0, so that each VM would see all others' frames: it is 300 s now",
            ),
            Self::Mtu { mtu } => {
                write!(formatter, "the bridge has an MTU of {mtu}, which VMs are given in place of a larger one")
            }
            Self::OtherPorts { ports } => write!(
                formatter,
                "{} on the bridge: whatever is connected there shares the VMs' network",
                ports.join(", ")
            ),
            Self::GroupForwardMask { mask } => write!(
                formatter,
                "the bridge has the group_fwd_mask {mask:#x}: VMs can speak to switches beyond it"
            ),
            Self::Ipv6 => formatter.write_str(
                "the host has an IPv6 address on the bridge, so IPv6 stays on: set accept_ra=0 there unless the \
                 host needs router advertisements, which VMs can send too",
            ),
        }
    }
}

/// What makes our own bridge what it was when it was created.
pub(super) fn changes_to_ours(link: &Link) -> impl Iterator<Item = BridgeSetting> + use<> {
    let seen = link.bridge.unwrap_or_default();
    let changes = [
        seen.spanning_tree.then_some(BridgeSetting::NoSpanningTree),
        (seen.forward_delay != 0).then_some(BridgeSetting::ForwardDelay(0)),
        (seen.ageing_time == 0).then_some(BridgeSetting::AgeingTime(AGEING_TIME)),
        seen.filters_vlans.then_some(BridgeSetting::NoVlanFiltering),
        (seen.group_forward_mask != 0).then_some(BridgeSetting::GroupForwardMask(0)),
        seen.multicast_snooping.then_some(BridgeSetting::NoMulticastSnooping),
    ];
    changes.into_iter().flatten()
}

/// The plan for another's bridge.
pub(super) fn adopt(
    config: &NetworkConfig,
    link: &Link,
    observed: &Observed,
) -> Result<BridgePlan, NetworkError> {
    let refused = |problem| NetworkError::Bridge { name: config.bridge.clone(), problem };
    let seen = link.bridge.unwrap_or_default();
    let mut plan = BridgePlan::new(BridgeOrigin::Adopted, config);
    let mut adopted = AdoptedBridge::untouched(link.index, &config.bridge);
    if seen.filters_vlans && seen.default_vlan == 0 {
        return Err(refused(BridgeProblem::NoVlanForPorts));
    }
    if link.mtu < SMALLEST_MTU {
        return Err(refused(BridgeProblem::Mtu { mtu: link.mtu }));
    }
    if let Ok(mtu) = u16::try_from(link.mtu)
        && mtu < config.mtu
    {
        plan.mtu = mtu;
        plan.notes.push(BridgeNote::Mtu { mtu });
    }
    if !link.is_up {
        plan.actions.push(BridgeAction::BringUp);
    }
    if seen.ageing_time == 0 {
        plan.actions.push(BridgeAction::Change(BridgeSetting::AgeingTime(AGEING_TIME)));
        adopted.ageing_time = Some(0);
        plan.notes.push(BridgeNote::AgeingTime);
    }
    if seen.spanning_tree && seen.forward_delay > 0 {
        // It listens, and then it learns.
        let seconds = seen.forward_delay.saturating_mul(2).div_ceil(100);
        plan.notes.push(BridgeNote::SpanningTree { seconds });
    }
    if seen.group_forward_mask != 0 {
        plan.notes.push(BridgeNote::GroupForwardMask { mask: seen.group_forward_mask });
    }
    let is_ours = |port: &&Link| port.alias.as_deref().and_then(tap_owner).is_some();
    let ports = observed.links.iter().filter(|port| port.controller == Some(link.index));
    let others: Vec<String> = ports.filter(|port| !is_ours(port)).map(|port| port.name.clone()).collect();
    if !others.is_empty() {
        plan.notes.push(BridgeNote::OtherPorts { ports: others });
    }
    let is_other = |ipv6: &Ipv6Assignment| {
        let is_ours = config.ipv6.is_some_and(|subnet| subnet.gateway() == ipv6.address.ip());
        ipv6.link == link.index && ipv6.is_global && !is_ours
    };
    match (observed.ipv6.iter().find(|ipv6| is_other(ipv6)), config.ipv6) {
        (Some(own), Some(_)) => return Err(refused(BridgeProblem::HasIpv6 { address: own.address })),
        (Some(_), None) => {
            plan.keeps_ipv6 = true;
            plan.notes.push(BridgeNote::Ipv6);
        }
        (None, _) => {}
    }
    plan.adopted = Some(adopted);
    Ok(plan)
}

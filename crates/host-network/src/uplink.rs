//! The uplink of a network: an interface of the host, or a VLAN on one, that is a port of the network's bridge. What is
//! connected there shares the VMs' network.
//!
//! ```text
//!  guests ── TAPs ── bridge ── eth1           (uplink)
//!                         └─── eth1.100 ── eth1   (uplink with a VLAN: eth1.100 is ours)
//! ```
//!
//! [`plan`] decides by what is seen of the host's links, [`keep`] does it. What may pass by the uplink is decided by
//! `port_filter`. A bridge has one uplink and its other ports are guests, which pass nothing on, so no loop goes through this
//! host and no spanning tree is spoken.

mod keep;
mod plan;

use std::fmt;

use ipnetwork::IpNetwork;
use thiserror::Error;

pub(crate) use self::keep::{give_uplinks_back, join_uplink, prepare_uplink};
#[cfg(test)]
pub(crate) use self::plan::UplinkStep;
pub(crate) use self::plan::{UplinkPlan, plan_uplink};
use crate::LinkName;
use crate::names::uplink_vlan_name;

/// The port of a bridge to the outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uplink {
    /// The host's interface.
    pub link: LinkName,
    /// The VLAN on it that is the port, as a link that is made for it and removed with the network; `None` for the interface
    /// itself.
    pub vlan: Option<VlanId>,
}

impl Uplink {
    /// The link that is the bridge's port.
    pub fn port(&self) -> LinkName {
        match self.vlan {
            None => self.link.clone(),
            Some(vlan) => uplink_vlan_name(&self.link, vlan),
        }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            None => self.link.fmt(formatter),
            Some(VlanId(vlan)) => write!(formatter, "VLAN {vlan} of {}", self.link),
        }
    }
}

/// The number of a VLAN: 1 to 4094 (IEEE 802.1Q §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// The largest.
    pub const MAX: u16 = 4094;

    /// The VLAN with this number; `None` for one that no VLAN has.
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl UplinkProblem {
    /// Whether it may pass without anybody changing a configuration, so that it keeps no network from starting.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Kind { .. }
            | Self::Address { .. }
            | Self::Route { .. }
            | Self::Controlled { .. }
            | Self::VlanTaken { .. }
            | Self::NoVlans
            | Self::OthersBridge => false,
        }
    }
}

/// Why an interface cannot be the uplink. The sentence goes on after "the uplink eth1 of the bridge br-lan".
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UplinkProblem {
    /// There is none of that name.
    #[error("is not there: this host has no interface of that name")]
    Missing,
    /// It is a link that cannot be a port of a bridge, or that belongs to VMs.
    #[error("is {kind}: an Ethernet interface, a bond or one end of a veth pair is accepted")]
    Kind {
        /// What it is.
        kind: String,
    },
    /// It has an address, by which this host may be reached.
    #[error(
        "has the address {address}, at which this host would not be reached any more: move the address elsewhere, or name an \
         interface without one"
    )]
    Address {
        /// The address.
        address: IpNetwork,
    },
    /// A route leads through it.
    #[error(
        "is where this host's route to {destination} leads, which would lead nowhere: move the route, or name another interface"
    )]
    Route {
        /// Where the route leads.
        destination: IpNetwork,
    },
    /// It belongs to another bridge or a bond.
    #[error("is a port of {controller} already: take it out of there, or name another interface")]
    Controlled {
        /// The bridge or bond.
        controller: String,
    },
    /// The name of the VLAN's link is somebody else's, or the VLAN has a link of another name.
    #[error(
        "has the link {link} already, which was not made by this worker: remove it, or name it as an uplink without a VLAN"
    )]
    VlanTaken {
        /// The link.
        link: String,
    },
    /// The kernel makes no VLANs.
    #[error(
        "needs VLANs, which this kernel does not have: load its module 8021q, or run a kernel that is built with it"
    )]
    NoVlans,
    /// The bridge is somebody else's.
    #[error(
        "is asked for on a bridge that was not made by this worker: make it a port there yourself, and leave the uplink out"
    )]
    OthersBridge,
}

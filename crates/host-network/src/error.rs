//! Why the host network, or one VM's part of it, could not be had.

use std::io;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use thiserror::Error;
use vm_model::{MacAddress, VmId};

use crate::{
    BridgeProblem, ConfigError, DhcpError, FirewallError, ForwardConflict, ForwardElsewhere, LinkName,
    NetlinkError, PortTaken, SettingsError, SubnetUse, TapError, Uplink, UplinkProblem,
};

/// Ports a bridge has at most: the kernel counts them with ten bits and leaves out number 0.
pub const BRIDGE_PORT_LIMIT: u32 = 1023;

/// Why an operation on the host network failed. Nothing of a failed operation stays behind.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The configuration contradicts itself.
    #[error("the host network cannot be configured like this")]
    Config(#[source] ConfigError),
    /// What has the bridge's name cannot be the VMs' bridge.
    #[error("the link {name} {problem}")]
    Bridge {
        /// The configured name.
        name: LinkName,
        /// What is wrong with it.
        problem: BridgeProblem,
    },
    /// The interface that is to connect the bridge to the outside cannot.
    #[error("the uplink {uplink} of the bridge {bridge} {problem}")]
    Uplink {
        /// The bridge.
        bridge: LinkName,
        /// The interface, with its VLAN.
        uplink: Uplink,
        /// What is wrong with it.
        problem: UplinkProblem,
    },
    /// The subnet's addresses mean something else on this host.
    #[error("the network {subnet} is in use on this host: {user}; configure another subnet")]
    SubnetInUse {
        /// The configured subnet.
        subnet: Ipv4Network,
        /// Who uses it.
        user: SubnetUse,
    },
    /// Another worker has the bridge or the table.
    #[error("the {what} cannot be used: {holder}; stop it, or configure another bridge and subnet")]
    InUse {
        /// The bridge or the table.
        what: String,
        /// Who uses it.
        holder: String,
        /// The kernel's refusal.
        #[source]
        cause: io::Error,
    },
    /// The kernel's network configuration could not be read or changed.
    #[error("cannot configure the network through netlink")]
    Netlink(#[from] NetlinkError),
    /// A setting of a link could not be changed.
    #[error("cannot set up packet forwarding")]
    Settings(#[from] SettingsError),
    /// The rules for masquerading and guarding could not be set.
    #[error("cannot set up the rules for packets from and to VMs")]
    Firewall(#[from] FirewallError),
    /// Addresses cannot be served.
    #[error("cannot serve DHCP on the bridge {bridge}")]
    Dhcp {
        /// The bridge.
        bridge: LinkName,
        /// Why.
        #[source]
        cause: DhcpError,
    },
    /// No TAP for an interface.
    #[error("cannot create a TAP for {vm}/{nic}")]
    Tap {
        /// The VM.
        vm: VmId,
        /// Its interface.
        nic: String,
        /// Why.
        #[source]
        cause: TapError,
    },
    /// The bridge has all the ports it can have.
    #[error("cannot attach {vm}/{nic}: the bridge {bridge} has all of its {BRIDGE_PORT_LIMIT} ports in use")]
    BridgeFull {
        /// The VM.
        vm: VmId,
        /// Its interface.
        nic: String,
        /// The bridge.
        bridge: LinkName,
    },
    /// A port of the host that should lead to a VM leads to another.
    #[error(transparent)]
    Forward(#[from] ForwardConflict),
    /// A port of the host that should lead to a VM is one that a program of the host listens on.
    #[error(transparent)]
    PortTaken(#[from] PortTaken),
    /// A port of the host that should lead to a VM leads to another worker's.
    #[error(transparent)]
    ForwardElsewhere(#[from] ForwardElsewhere),
    /// The interface cannot be attached as described.
    #[error("cannot attach {vm}/{nic}: {problem}")]
    Attachment {
        /// The VM.
        vm: VmId,
        /// Its interface.
        nic: String,
        /// What is wrong with it.
        problem: AttachmentProblem,
    },
    /// A blocking step was lost with its thread.
    #[error("the step that should {operation} ended without an answer")]
    Lost {
        /// What was being done.
        operation: &'static str,
        /// How it ended.
        #[source]
        cause: tokio::task::JoinError,
    },
}

impl NetworkError {
    /// Whether links, addresses or routes of this host stand against this one network: it can be had once those are changed, and
    /// other networks can meanwhile.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Bridge { .. } | Self::Uplink { .. } | Self::SubnetInUse { .. } => true,
            Self::Config(_)
            | Self::InUse { .. }
            | Self::Netlink(_)
            | Self::Settings(_)
            | Self::Firewall(_)
            | Self::Dhcp { .. }
            | Self::Tap { .. }
            | Self::BridgeFull { .. }
            | Self::Forward(_)
            | Self::PortTaken(_)
            | Self::ForwardElsewhere(_)
            | Self::Attachment { .. }
            | Self::Lost { .. } => false,
        }
    }
}

/// What is wrong with an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttachmentProblem {
    /// It is attached already.
    #[error("it is attached already; detach it first")]
    Attached,
    /// Its address is none that a VM can have here.
    #[error("the address {address} is no VM's address in the network {subnet}")]
    Address {
        /// The address.
        address: Ipv4Addr,
        /// The network.
        subnet: Ipv4Network,
    },
    /// Its netmask has holes.
    #[error("{mask} is no netmask: ones followed by zeros are accepted, like 255.255.0.0")]
    Mask {
        /// The mask.
        mask: Ipv4Addr,
    },
    /// Its MAC address is no VM's.
    #[error("{mac} is no unicast MAC address of a VM")]
    Mac {
        /// The MAC address.
        mac: MacAddress,
    },
    /// Another interface has its address or MAC address.
    #[error("{what} belongs to {holder}")]
    Taken {
        /// The address, with its kind.
        what: String,
        /// Who has it.
        holder: String,
    },
    /// Its list of destinations cannot be enforced.
    #[error(
        "it may open connections to the destinations of a list only, and its network has the uplink {uplink}, by which frames \
         leave without this host: put it into a network without an uplink, or leave the list out"
    )]
    EgressByUplink {
        /// The uplink.
        uplink: Uplink,
    },
    /// Ports of the host are to lead to it, and its address is not known.
    #[error(
        "ports of this host are to lead to it, and others give addresses in its network: make its first interface one of another \
         network, or leave the ports out"
    )]
    PortsWithoutAddress,
    /// Its MTU is out of range or over the bridge's.
    #[error("its MTU of {mtu} is out of range: 576 to the bridge's {limit} is accepted")]
    Mtu {
        /// The MTU.
        mtu: u16,
        /// The bridge's MTU.
        limit: u16,
    },
}

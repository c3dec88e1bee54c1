//! What starting found and did, for its caller and the log.

use std::fmt;
use std::net::Ipv4Addr;

use vm_model::{MacAddress, VmId};

use crate::LinkName;
use crate::bridge::{BridgeNote, BridgeOrigin};
use crate::dns::Domain;
use crate::firewall::ForwardDrop;
use crate::forwarding::HostForwarding;
use crate::host::KeptNicProblem;

/// What starting found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartReport {
    /// Where the bridge came from.
    pub bridge: BridgeOrigin,
    /// Whom the host forwards packets for.
    pub host_forwarding: HostForwarding,
    /// The name servers that VMs are told.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that VMs are told to look names up in, where their names are answered.
    pub domain: Option<Domain>,
    /// What may keep VMs from being reached, though nothing failed.
    pub warnings: Vec<StartWarning>,
    /// Interfaces that were not named as kept, and whose TAPs are there: some process runs their VMs. They stay bound to
    /// their addresses, which are nobody else's while they are there.
    pub unknown: Vec<UnknownNic>,
}

/// An interface of a VM that nobody has named, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownNic {
    /// The VM.
    pub vm: VmId,
    /// Its interface.
    pub nic: String,
    /// The TAP.
    pub tap: String,
    /// The hardware address that it is bound to.
    pub mac: MacAddress,
    /// The address that it is bound to.
    pub address: Ipv4Addr,
}

/// Something on the host that may be in the VMs' way and is not ours to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartWarning {
    /// Another table drops forwarded packets by default.
    ForwardDrop {
        /// Where, and whose.
        drop: ForwardDrop,
        /// Whether frames from VM to VM are subject to it too.
        between_vms: bool,
    },
    /// VMs are told the host's name servers only, and find each other by address alone; says why.
    NoNames(String),
    /// VMs are told no name server.
    NoNameServer,
    /// The kernel cannot count the connections of a VM: only the rate of new ones is limited.
    ConnectionsNotCounted,
    /// The adopted bridge brings something along.
    Bridge(BridgeNote),
    /// An interface of a VM that ran on is not, or not wholly, as it was.
    KeptNic {
        /// The VM.
        vm: VmId,
        /// Its interface.
        nic: String,
        /// The TAP that it had.
        tap: LinkName,
        /// What is wrong.
        problem: KeptNicProblem,
    },
}

impl fmt::Display for StartWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardDrop { drop, between_vms } => {
                let whom = if *between_vms {
                    "between VMs and the outside, and from VM to VM (br_netfilter is on)"
                } else {
                    "between VMs and the outside"
                };
                write!(
                    formatter,
                    "{drop}: let it accept packets of the bridge, or there is no traffic {whom}"
                )
            }
            Self::Bridge(note) => note.fmt(formatter),
            Self::NoNames(problem) => write!(formatter, "VMs have no names: {problem}"),
            Self::NoNameServer => formatter.write_str(
                "VMs are told no name server: this host has none but on loopback; configure some for VMs",
            ),
            Self::ConnectionsNotCounted => formatter.write_str(
                "connections of VMs are limited by their rate alone, so that one VM may fill the host's table of \
                 connections over time: the kernel lacks nft_connlimit or timeouts of connections",
            ),
            Self::KeptNic { vm, nic, tap, problem } => {
                write!(formatter, "the TAP {tap} of {vm}/{nic} {problem}")
            }
        }
    }
}

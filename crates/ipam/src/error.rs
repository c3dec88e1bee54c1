//! Refusals: an unfit subnet, an allocation that cannot be made, a lease book that cannot be trusted.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use thiserror::Error;
use vm_model::{MacAddress, VmId};

use crate::{AddressRange, Interface, LEASE_BOOK_VERSION, ReservedAddress};

/// Why a subnet cannot be a pool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// Too wide or too narrow.
    #[error("subnet {subnet} cannot hold VM addresses: a prefix length of 8 to 30 is accepted")]
    Size {
        /// The subnet.
        subnet: Ipv4Network,
    },
    /// An address inside the subnet was given rather than the subnet.
    #[error("subnet {subnet} has bits set after its prefix: write it as {network}/{prefix}", prefix = subnet.prefix())]
    HostBits {
        /// The subnet as given.
        subnet: Ipv4Network,
        /// The address that names it.
        network: Ipv4Addr,
    },
    /// Loopback, multicast or reserved space.
    #[error("subnet {subnet} holds no unicast addresses: one like 10.100.0.0/16 is accepted")]
    NotUnicast {
        /// The subnet.
        subnet: Ipv4Network,
    },
    /// Addresses are reserved that are none of the pool's.
    #[error("the reserved range {range} is not within the network {subnet}")]
    ReservedOutside {
        /// The range.
        range: AddressRange,
        /// The subnet.
        subnet: Ipv4Network,
    },
}

/// Why an interface was given no lease.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocationError {
    /// The wished address is none of the pool's.
    #[error("{interface} cannot have address {address}: it is outside the network {subnet}")]
    OutsideSubnet {
        /// Who asked.
        interface: Interface,
        /// The wished address.
        address: Ipv4Addr,
        /// The pool's subnet.
        subnet: Ipv4Network,
    },
    /// The wished address has a role of its own.
    #[error("{interface} cannot have address {address}: it is the {role} address of {subnet}")]
    Reserved {
        /// Who asked.
        interface: Interface,
        /// The wished address.
        address: Ipv4Addr,
        /// Its role.
        role: ReservedAddress,
        /// The pool's subnet.
        subnet: Ipv4Network,
    },
    /// Another interface holds the wished address.
    #[error("{interface} cannot have address {address} of {subnet}: {holder} holds it")]
    AddressInUse {
        /// Who asked.
        interface: Interface,
        /// The wished address.
        address: Ipv4Addr,
        /// Who holds it.
        holder: Interface,
        /// The pool's subnet.
        subnet: Ipv4Network,
    },
    /// Another interface holds the wished hardware address.
    #[error("{interface} cannot have MAC address {mac}: {holder} of the network {subnet} holds it")]
    MacInUse {
        /// Who asked.
        interface: Interface,
        /// The wished hardware address.
        mac: MacAddress,
        /// Who holds it.
        holder: Interface,
        /// The pool's subnet.
        subnet: Ipv4Network,
    },
    /// Two interfaces of one VM wish for the same: the description contradicts itself.
    #[error("{vm} wishes for the {wished} twice: for interface {first}, number {}, and for {second}, number {}", places.0, places.1)]
    WishedTwice {
        /// The VM.
        vm: VmId,
        /// The interface that wished first.
        first: String,
        /// The other one.
        second: String,
        /// Their places among the VM's interfaces, from 0.
        places: (usize, usize),
        /// What both wish for.
        wished: Wished,
    },
    /// The wished hardware address is a group's, or all zero.
    #[error(
        "{interface} cannot have MAC address {mac}: it is no unicast address; \
         one with an even first byte is accepted, like 02:00:00:12:34:56"
    )]
    MacNotUnicast {
        /// Who asked.
        interface: Interface,
        /// The wished hardware address.
        mac: MacAddress,
    },
    /// The interface holds a lease already and now wishes for another one.
    #[error(
        "{interface} cannot have {wished}: it holds {address} with MAC address {mac} until its VM is released"
    )]
    HoldsAnother {
        /// Who asked.
        interface: Interface,
        /// The part of the wish that differs.
        wished: String,
        /// The address it holds.
        address: Ipv4Addr,
        /// The hardware address it holds.
        mac: MacAddress,
    },
    /// Every address that is given unasked is leased.
    #[error("no address is left for {interface}: all {capacity} of the network {subnet} are leased{}", but_for(*.reserved))]
    Exhausted {
        /// Who asked.
        interface: Interface,
        /// The pool's subnet.
        subnet: Ipv4Network,
        /// How many addresses the pool can lease to those that ask for none.
        capacity: u32,
        /// How many more it leases to those that ask for them.
        reserved: u32,
    },
    /// Every hardware address that the pool could derive was wished for by others.
    #[error("no MAC address is left for {interface}: all that can be derived from {address} are held")]
    MacsExhausted {
        /// Who asked.
        interface: Interface,
        /// The address it would have had.
        address: Ipv4Addr,
    },
}

/// What is said of reserved addresses where all others are leased.
fn but_for(reserved: u32) -> String {
    match reserved {
        0 => String::new(),
        count => {
            format!(", but for {count} reserved ones, which a VM has only if its description asks for them")
        }
    }
}

/// One value that an interface can wish for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wished {
    /// An address.
    Address(Ipv4Addr),
    /// A hardware address.
    Mac(MacAddress),
}

impl fmt::Display for Wished {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "address {address}"),
            Self::Mac(mac) => write!(formatter, "MAC address {mac}"),
        }
    }
}

/// Why a lease book cannot become a pool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportError {
    /// Written by a newer worker, or damaged.
    #[error("the lease book has version {found}; version {LEASE_BOOK_VERSION} is read")]
    Version {
        /// The version in the book.
        found: u32,
    },
    /// The configured network is another than the book's.
    #[error("the lease book is of the network {book}, but {configured} is configured")]
    OtherSubnet {
        /// The subnet in the book.
        book: Ipv4Network,
        /// The subnet asked for.
        configured: Ipv4Network,
    },
    /// One interface has two leases.
    #[error("the lease book has two leases for {interface}")]
    Twice {
        /// The interface.
        interface: Interface,
    },
    /// A lease that the pool would not have given.
    #[error("the lease book's entry {index} (counted from 0) cannot be kept")]
    Lease {
        /// The position in the book.
        index: usize,
        /// Why the pool refuses it.
        #[source]
        cause: AllocationError,
    },
}

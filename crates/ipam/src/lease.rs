//! The values that pass between a pool and its users: who asks, what is wished for, what was given.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use vm_model::{MacAddress, VmId};

/// One network interface of one VM; shown as `web-1/net0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    /// The VM.
    pub vm: VmId,
    /// The interface's name, unique in its VM.
    pub nic: String,
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.vm, self.nic)
    }
}

/// What a machine description asks for. `None` leaves the choice to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// This address and no other.
    pub ip: Option<Ipv4Addr>,
    /// This hardware address and no other.
    pub mac: Option<MacAddress>,
}

/// An address and a hardware address, held by one interface until its VM is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The VM that holds it.
    pub vm: VmId,
    /// The interface of that VM.
    pub nic: String,
    /// The interface's IPv4 address.
    pub address: Ipv4Addr,
    /// The interface's hardware address.
    pub mac: MacAddress,
}

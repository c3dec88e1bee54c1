//! The form in which leases are kept: one plain, versioned value. Where it is written is its user's concern.

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::Lease;

/// The version of [`LeaseBook`] that is written, and the only one that is read.
pub const LEASE_BOOK_VERSION: u32 = 1;

/// Every lease of one pool, in the order of VM and interface. Equal pools export equal books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseBook {
    /// [`LEASE_BOOK_VERSION`] when it was written.
    pub version: u32,
    /// The network that the leases are of.
    pub subnet: Ipv4Network,
    /// The leases.
    pub leases: Vec<Lease>,
}

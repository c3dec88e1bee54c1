//! How an interface of a running machine does not fit the network that it is in.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What of an interface does not fit its network, because the network was configured anew while the machine ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NicMismatch {
    /// The worker has no such network any more.
    NetworkRemoved,
    /// The interface has an address of before the network had others.
    AddressOutside {
        /// The network's addresses now, like `10.79.0.0/24`.
        subnet: String,
    },
    /// The interface has another IPv6 address in its network than the guest was given.
    Ipv6Changed {
        /// What the guest was given; nothing where the network had no IPv6 then.
        #[schema(value_type = Option<String>, format = Ipv6)]
        given: Option<Ipv6Addr>,
    },
}

impl fmt::Display for NicMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkRemoved => formatter.write_str("its network is not configured any more"),
            Self::AddressOutside { subnet } => write!(formatter, "its network is {subnet} now"),
            Self::Ipv6Changed { given: Some(given) } => {
                write!(formatter, "its guest was given {given}, which its network has no more")
            }
            Self::Ipv6Changed { given: None } => formatter.write_str("its guest was given no IPv6 address"),
        }
    }
}

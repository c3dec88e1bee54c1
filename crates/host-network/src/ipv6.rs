//! IPv6 for VMs: what guests are told of their network, and what the host does for it beside what it does for IPv4.
//!
//! A guest's address is made of its hardware address ([`vm_model::Ipv6Subnet`]), so nothing is allocated here. Guests learn
//! of their router and their network by router advertisements, and of their address and name servers by DHCPv6:
//!
//! ```text
//!  guest ─▶ nft: own addresses, 10 messages a second ─▶ packet socket ─▶ packet: which of both?
//!                                                                          │
//!                     router solicitation ─▶ advertisement: to the asker ──┤
//!                     DHCPv6 message ─▶ dhcp: by its MAC address ──────────┴─▶ server sends the answer
//!  every five minutes ─▶ advertisement: to all
//! ```
//!
//! Advertisements never offer a prefix for autoconfiguration (the A flag of RFC 4861 §4.6.2). A guest with stable private or
//! temporary addresses (RFC 7217, RFC 8981) would make itself others than its port is bound to, prefer them, and lose what
//! it sends. With DHCPv6 alone every guest either has the address that passes, or none and goes on with IPv4.

mod advertisement;
mod bridge;
mod dhcp;
mod forwarding;
pub(crate) mod packet;
mod server;
mod table;

pub(crate) use self::bridge::missing_addresses;
#[cfg(feature = "fuzzing")]
pub(crate) use self::dhcp::respond;
pub(crate) use self::forwarding::{
    Ipv6ForwardingPlan, Ipv6Guard, apply_forwarding, give_back_forwarding, observe_forwarding,
    plan_forwarding,
};
pub(crate) use self::server::{Ipv6Facts, Ipv6Server};
pub(crate) use self::table::table_text;

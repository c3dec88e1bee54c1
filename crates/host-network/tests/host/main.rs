//! The host network for real, each test in network namespaces of its own.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail by panic")]

#[path = "../namespaces/mod.rs"]
mod namespaces;

mod bridge;
mod claimed_names;
mod connections;
mod dhcp;
mod drift;
mod egress;
mod firewall;
mod forwarding;
mod forwards;
mod guest;
mod ipv6;
mod kept;
mod names;
mod networks;
mod reach;
mod router_advertisements;
mod shared_tables;
mod tap;
mod uninterrupted;
mod uplink;
mod wire;

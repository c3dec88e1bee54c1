//! The host network for real, each test in network namespaces of its own.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail by panic")]

#[path = "../namespaces/mod.rs"]
mod namespaces;

mod bridge;
mod dhcp;
mod firewall;
mod reach;
mod tap;

//! What fuzzers and seed replays run: each door to hostile input as a plain function of bytes.
//!
//! A body takes any bytes, makes of them what a guest, a peer or a file could do, does it, and panics if that broke
//! a promise: not only when the code under test panics, but also when a running queue's settings changed, a chain
//! left guest memory, a read-only disk was written or a turn did not end. The same bodies serve `cargo fuzz` (the
//! `fuzz` folder at the top of the project) and, with committed seeds and a bounded number of generated inputs,
//! this crate's tests on the stable compiler.
//!
//! What is not here: the code under test, and anything that ships. A body uses a crate's public face; where that
//! has no door narrow enough, the crate has a module `fuzzing` behind a feature of that name.
//!
//! ```
//! let body = fuzz_bodies::body("nar_hash_text").expect("there is one of that name");
//! body(b"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
//! ```

#![forbid(unsafe_code)]

mod artifact;
mod assignments;
mod balloon;
mod bench;
mod block;
mod console;
mod dhcp;
mod dns;
mod driver;
mod host_process;
mod input;
mod ipv6;
mod kernel;
mod leases;
mod master;
mod net;
mod notify;
mod pci;
mod platform;
mod ports;
mod qcow2;
mod transport;
mod virtqueue;
mod vsock;

/// What fuzzers call: any bytes are an input.
pub type Body = fn(&[u8]);

/// Every body with its name, which is also that of its fuzz target and of its folder of seeds.
///
/// A new door to hostile input gets a module here, a row, and a file in
/// `fuzz/fuzz_targets`.
pub const BODIES: [(&str, Body); 23] = [
    ("assignments", assignments::document),
    ("balloon_queues", balloon::queues),
    ("block_requests", block::requests),
    ("certificate_names", master::certificate_names),
    ("console_queues", console::queues),
    ("dhcp_packets", dhcp::packets),
    ("dns_messages", dns::messages),
    ("host_process_messages", host_process::messages),
    ("ipv6_packets", ipv6::packets),
    ("kernel_images", kernel::images),
    ("lease_book", leases::book),
    ("machine_description", artifact::machine_description),
    ("master_messages", master::messages),
    ("nar_hash_text", artifact::nar_hash_text),
    ("net_frames", net::frames),
    ("notify_messages", notify::messages),
    ("pci_configuration", pci::configuration),
    ("platform_registers", platform::registers),
    ("qcow2_images", qcow2::images),
    ("serial_port", platform::serial_port),
    ("virtio_transport", transport::accesses),
    ("virtqueue", virtqueue::chains),
    ("vsock_packets", vsock::packets),
];

/// The body called `name`.
#[must_use]
pub fn body(name: &str) -> Option<Body> {
    BODIES.iter().find(|(known, _)| *known == name).map(|(_, body)| *body)
}

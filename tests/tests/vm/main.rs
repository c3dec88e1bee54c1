//! The end-to-end suite. `cargo xtask vm-test` runs it in a host with working KVM.
//!
//! The smoke set is what is not ignored. A test marked `#[ignore = "full: …"]` says why it is not in it.

mod clients;
mod clock;
mod data;
mod devices;
mod endings;
mod faulty_disks;
mod lifecycle;
mod limits;
mod load;
mod master;
mod memory;
mod refusals;
mod rollout;
mod sockets;
mod space;
mod survival;
mod upgrade;
mod uplink;
mod vhost;
mod wire;

/// The way in for every test: without what `cargo xtask vm-test` provides, it fails and says so.
fn environment() -> end_to_end::Environment {
    end_to_end::Environment::from_variables().expect("the lab's variables")
}

//! The worker as a service under a real systemd, installed by its package. `cargo xtask vm-test --systemd` runs this in a host
//! that has one: first all tests but those of `at_shutdown` and `after_shutdown`, then those of `at_shutdown`, and when the
//! host is shut down those of `after_shutdown`.

mod after_shutdown;
mod at_shutdown;
mod journal;
mod limits;
mod package;
mod service;
mod smoke;
mod stock;
mod visitor;

/// The way in for every test: without what `cargo xtask vm-test` provides, it fails and says so.
fn environment() -> end_to_end::Environment {
    end_to_end::Environment::from_variables().expect("the lab's variables")
}

//! A host for one test alone: a network and mounts of its own (`namespaces`), and a store of artifacts that run tiny
//! guests (`store`).
//!
//! For tests of what runs VMs, which is theirs to start. Whatever goes wrong here is a panic: it fails the test.

mod namespaces;
mod store;

pub use namespaces::{isolated, links};
pub use store::{Artifact, Store};

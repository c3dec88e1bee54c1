//! A host for one test alone: a network and mounts of its own (`namespaces`), a file system that can be full
//! (`small_file_system`), one whose files share blocks
//! (`sharing_file_system`), ones that stop answering (`freezable_file_system` for writes,
//! `dead_store` for everything), threads without `io_uring` (`no_io_uring`), and a store of artifacts that run tiny guests (`store`).
//!
//! For tests of what runs VMs, which is theirs to start. Whatever goes wrong here is a panic: it fails the test.

mod dead_store;
mod freezable_file_system;
mod namespaces;
mod no_io_uring;
mod sharing_file_system;
mod small_file_system;
mod store;

pub use dead_store::DeadStore;
pub use freezable_file_system::FreezableFileSystem;
pub use namespaces::{isolated, links};
pub use no_io_uring::without_io_uring;
pub use sharing_file_system::SharingFileSystem;
pub use small_file_system::SmallFileSystem;
pub use store::{Artifact, Store};

//! A host for one test alone: a network and mounts of its own (`namespaces`), a file system that can be full
//! (`small_file_system`), one whose files share blocks
//! (`sharing_file_system`), ones that stop answering (`freezable_file_system` for writes,
//! `dead_store` for everything), threads without `io_uring` (`no_io_uring`), a store of artifacts that run tiny guests (`store`), a
//! binary cache that the real Nix (`nix_host`) made of some (`nix_cache`), and a web server of it that may be told to misbehave (`cache_server`).
//!
//! For tests of what runs VMs, which is theirs to start. Whatever goes wrong here is a panic: it fails the test.

mod cache_server;
mod dead_store;
mod freezable_file_system;
mod namespaces;
mod nix_cache;
mod nix_host;
mod no_io_uring;
mod sharing_file_system;
mod small_file_system;
mod store;

pub use cache_server::{Behaviour, CacheServer};
pub use dead_store::DeadStore;
pub use freezable_file_system::FreezableFileSystem;
pub use namespaces::{isolated, links};
pub use nix_cache::NixCache;
pub use nix_host::NixHost;
pub use no_io_uring::without_io_uring;
pub use sharing_file_system::SharingFileSystem;
pub use small_file_system::SmallFileSystem;
pub use store::{Artifact, Store};

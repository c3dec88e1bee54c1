//! Control groups (Linux `Documentation/admin-guide/cgroup-v2.rst`) of processes that run VMs.
//!
//! - [`plan`] is pure: limits and devices in, files and their values out.
//! - [`Hierarchy`] finds the unified hierarchy and its controllers.
//! - [`Group`] is one directory of it: made, joined, written, read, killed, removed. Plain file calls, so that a test can
//!   have it anywhere.
//! - [`BlockDevice`] is the device of the host that a file lies on, as limits of I/O name it.
//!
//! Which process belongs in which group, and when, is left to whoever starts processes. The legacy hierarchies of cgroup v1 are
//! not used.

#![forbid(unsafe_code)]

mod controllers;
mod device;
mod error;
mod group;
mod hierarchy;
mod plan;
mod usage;

pub use controllers::{Controller, Controllers};
pub use device::BlockDevice;
pub use error::GroupError;
pub use group::Group;
pub use hierarchy::{Hierarchy, Unavailable, unified_path};
pub use plan::{Setting, needed, plan};

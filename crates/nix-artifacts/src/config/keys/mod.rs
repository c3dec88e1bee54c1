//! Every key of `vm-config.json` that is known, and what becomes of it.
//!
//! A table, not code: the checker, the error texts and `docs/vm-config.md` all follow it, so a key is added in
//! one place. Keys are those of Cloud Hypervisor's `VmConfig`, older spellings among them, and our own
//! `procurator`.

mod cloud_init;
mod devices;
mod health;
mod kind;
mod limits;
mod machine;

pub(super) use kind::NAME;
pub use kind::{KeyRule, Literal, ValueKind, Verdict};

/// The most vCPUs a machine can have.
pub(crate) const MAX_VCPUS: u64 = vm_model::VCPUS_MOST as u64;
/// The highest number of a host CPU that a set of CPUs holds.
pub(crate) const MAX_HOST_CPU: u64 = 1023;
/// The least memory a machine can have, in bytes.
pub(crate) const MIN_MEMORY: u64 = vm_model::MEMORY_LEAST.get();
/// The most memory a machine can have, in bytes; what the host can carry is judged elsewhere.
pub(crate) const MAX_MEMORY: u64 = vm_model::MEMORY_MOST.get();
/// Memory comes in pages of so many bytes.
pub(crate) const PAGE_SIZE: u64 = vm_model::MEMORY_PAGE.get();
/// What a machine's memory can be.
pub(crate) const MEMORY_SIZE: ValueKind =
    ValueKind::Bytes { least: MIN_MEMORY, most: MAX_MEMORY, multiple_of: PAGE_SIZE };
/// Disks are whole sectors of so many bytes (virtio 1.2 §5.2.4).
pub(crate) const SECTOR: u64 = 512;
/// The largest disk in bytes: more than one file can have on most file systems.
pub(crate) const MAX_DISK: u64 = 64 << 40;
/// The longest command line: Linux on x86 keeps 2048 bytes, the last of them NUL.
pub(crate) const MAX_CMDLINE: usize = 2047;

/// Every known key, containers before their members.
pub fn known_keys() -> impl Iterator<Item = &'static KeyRule> {
    machine::KEYS.iter().chain(health::KEYS).chain(limits::KEYS).chain(cloud_init::KEYS).chain(devices::KEYS)
}

/// The rule for member `name` of the container `prefix` (`""`, `disks[]`, …).
pub(super) fn member(prefix: &str, name: &str) -> Option<&'static KeyRule> {
    known_keys().find(|rule| rule.container() == prefix && rule.name() == name)
}

/// The members of the container `prefix`.
pub(super) fn members(prefix: &str) -> impl Iterator<Item = &'static KeyRule> {
    known_keys().filter(move |rule| rule.container() == prefix)
}

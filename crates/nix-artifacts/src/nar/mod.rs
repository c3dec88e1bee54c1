//! Nix archives: the serialisation of a store path whose SHA-256 names its content.
//!
//! [`encode`] turns what lies below a store path into the archive's bytes, a piece at a time; [`verify`]
//! compares their hash with what was promised. Reading archives is no concern of this crate.

mod encode;
mod flat;
mod tree;
mod verify;

#[cfg(test)]
mod tests;

pub use tree::{NarError, NarProgress};
pub use verify::{HashError, Verified, hash_store_path, verify_hash};

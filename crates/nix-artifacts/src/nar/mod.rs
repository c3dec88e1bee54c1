//! Nix archives: the serialisation of a store path whose SHA-256 names its content.
//!
//! [`encode`] turns what lies below a store path into the archive's bytes, a piece at a time; [`hash`] is the
//! value; [`verify`] compares it with what was promised. Reading archives is no concern of this crate.

mod encode;
mod hash;
mod tree;
mod verify;

#[cfg(test)]
mod tests;

pub use hash::{InvalidNarHash, NarHash};
pub use tree::{NarError, NarProgress};
pub use verify::{HashError, Verified, hash_store_path, verify_hash};

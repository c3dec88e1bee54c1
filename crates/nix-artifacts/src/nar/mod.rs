//! Nix archives: the serialisation of a store path whose SHA-256 names its content.
//!
//! [`tree`] walks what lies below a store path, [`content`] reads its files, [`encode`] turns both into the archive's bytes,
//! a piece at a time; [`verify`] compares their hash with what was promised. The walk notes what each file is, so that the
//! verdict is about the very files that a machine has open, and hands contents on to who wants to copy them ([`feed`]).
//! Reading archives is no concern of this crate.

mod content;
mod encode;
mod error;
mod feed;
mod flat;
mod tree;
mod verify;

#[cfg(test)]
mod tests;

pub use error::NarError;
pub use feed::{FEED_DEPTH, Feed, Piece, SharedBytes};
pub use tree::NarProgress;
pub use verify::{HashError, LoadedPath, Verified, hash_store_path, verify_hash, verify_loaded};

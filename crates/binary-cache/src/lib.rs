//! From a Nix binary cache to a verified store path on this host, with or without Nix.
//!
//! ```text
//!   closure ──▶ narinfo + signature: what belongs to the path, and who vouches for it      (small, asked first)
//!      │
//!      ▼
//!   download ──▶ decompress ──▶ hash ──▶ nar: unpack beside the store, or hand to Nix        (streamed, in parallel)
//!      │ goes on where a connection broke, or where an earlier fetch ended
//!      ▼
//!   publish: renamed into the store when it is whole and right, and all it refers to is there
//! ```
//!
//! Nothing that a cache says is believed before a trusted key has signed it: neither a size nor a hash, and no file lies under
//! its final name before the hash of all of it was found right. Memory is bounded whatever a cache sends; disk is bounded by
//! what was signed.
//!
//! What was fetched into a store that Nix does not keep is on record there, and can be collected again ([`Store::collect`]).
//!
//! Deliberately not here: which caches and keys a host trusts, when something is fetched or collected, and what is needed.

#![forbid(unsafe_code)]

mod allowance;
mod cache;
mod closure;
mod collect;
mod compression;
mod download;
mod error;
mod fetch;
mod fetched;
mod http;
mod nar;
mod narinfo;
mod nix_import;
mod partial;
mod piped;
mod signature;
mod staging;
mod store;

pub use cache::{CacheUrl, InvalidCacheUrl};
pub use collect::{CollectionError, CollectionMode, settle};
pub use error::{Damage, FetchError};
pub use fetch::{FetchSettings, Fetched, Fetcher, Progress};
pub use nar::NarFormatError;
pub use narinfo::NarinfoError;
pub use signature::{InvalidTrustedKey, TrustedKey};
pub use store::{Store, StoreError};

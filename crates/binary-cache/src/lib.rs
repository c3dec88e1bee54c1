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
//! Deliberately not here: which caches and keys a host trusts, when something is fetched, and what is collected again.

#![forbid(unsafe_code)]

mod allowance;
mod cache;
mod closure;
mod compression;
mod download;
mod error;
mod fetch;
mod http;
mod nar;
mod narinfo;
mod nix_import;
mod partial;
mod signature;
mod staging;
mod store;

pub use cache::{CacheUrl, InvalidCacheUrl};
pub use error::{Damage, FetchError};
pub use fetch::{FetchSettings, Fetched, Fetcher, Progress};
pub use nar::NarFormatError;
pub use narinfo::NarinfoError;
pub use signature::{InvalidTrustedKey, TrustedKey};
pub use store::{Store, StoreError};

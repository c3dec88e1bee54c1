//! Why a store path cannot be had.

use thiserror::Error;
use vm_model::{Bytes, NarHash, StoreName};

use crate::fetch::SPARED;
use crate::http::HttpError;
use crate::nar::NarFormatError;
use crate::narinfo::NarinfoError;
use crate::store::StoreError;

/// Why a store path cannot be had. Nothing of it is in the store, but for paths that it needs and that are whole.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No cache has it.
    #[error("no binary cache has {name}: looked in {caches}")]
    NotThere {
        /// The path.
        name: StoreName,
        /// The caches.
        caches: String,
    },
    /// A cache cannot be asked.
    #[error("cannot get {url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// What a cache says of it cannot be used.
    #[error("{cache} describes {name} in a way that cannot be used")]
    Description {
        /// The cache.
        cache: String,
        /// The path.
        name: StoreName,
        /// Why.
        #[source]
        source: NarinfoError,
    },
    /// A cache answers for another path or another store.
    #[error("{cache} answers for {found} when asked for {wanted}")]
    OtherPath {
        /// The cache.
        cache: String,
        /// What was asked for.
        wanted: String,
        /// What it answered for.
        found: String,
    },
    /// Nobody who is trusted has signed it.
    #[error("{name} of {cache} is signed by {signed_by}; trusted are {trusted}")]
    Untrusted {
        /// The cache.
        cache: String,
        /// The path.
        name: StoreName,
        /// The names of the keys that are said to have signed it.
        signed_by: String,
        /// The names of the keys that are trusted.
        trusted: String,
    },
    /// It and what it needs are more than is accepted.
    #[error("{name} and what it needs are {found}; at most {most} is accepted")]
    TooMuch {
        /// The path.
        name: StoreName,
        /// How much it is.
        found: String,
        /// The most that is accepted.
        most: String,
    },
    /// It does not fit.
    #[error("{name} and what it needs are {needed}, and {free} is free in the store")]
    NoSpace {
        /// The path.
        name: StoreName,
        /// How much it is, unpacked.
        needed: Bytes,
        /// How much there is room for.
        free: Bytes,
    },
    /// Its archive is not what was signed.
    #[error("the archive of {name} from {cache} is damaged")]
    Damaged {
        /// The path.
        name: StoreName,
        /// The cache.
        cache: String,
        /// In which way.
        #[source]
        source: Box<Damage>,
    },
    /// The store's file system does not take it.
    #[error("{name} cannot be unpacked beside the store")]
    Unwritable {
        /// The path.
        name: StoreName,
        /// What could not be written, and why.
        #[source]
        source: NarFormatError,
    },
    /// Paths that need each other.
    #[error("{name} needs itself by way of others")]
    Circle {
        /// One of them.
        name: StoreName,
    },
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread that unpacks ended by a panic.
    #[error("unpacking {name} ended by a panic")]
    Panicked {
        /// The path.
        name: StoreName,
    },
}

impl FetchError {
    /// How much would have to be free in the store, where that is what is missing.
    pub fn wanted_free(&self) -> Option<Bytes> {
        match self {
            Self::NoSpace { needed, .. } => Some(Bytes::new(needed.get().saturating_add(SPARED))),
            Self::NotThere { .. }
            | Self::Transport { .. }
            | Self::Description { .. }
            | Self::OtherPath { .. }
            | Self::Untrusted { .. }
            | Self::TooMuch { .. }
            | Self::Damaged { .. }
            | Self::Unwritable { .. }
            | Self::Circle { .. }
            | Self::Store(_)
            | Self::Panicked { .. } => None,
        }
    }
}

/// In which way an archive is damaged.
#[derive(Debug, Error)]
pub enum Damage {
    /// It cannot be read to its end.
    #[error(transparent)]
    Form(NarFormatError),
    /// It is another one.
    #[error("got {found} ({size} bytes), expected {expected} ({signed_size} bytes)")]
    Content {
        /// The hash that it has.
        found: NarHash,
        /// How many bytes it has.
        size: u64,
        /// The hash that was signed.
        expected: NarHash,
        /// The size that was signed.
        signed_size: u64,
    },
}

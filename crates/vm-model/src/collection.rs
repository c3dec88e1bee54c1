//! What of the store paths that were fetched is deleted again, and why.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, Timestamp};

/// Which of the fetched paths that nothing needs are deleted: each of what is said here is a reason. Where nothing is said, all
/// of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectionRule {
    /// Those that nothing has needed for as long.
    pub unused_for: Option<Duration>,
    /// Those beyond so many bytes, the ones that were needed last being spared.
    pub keep: Option<Bytes>,
    /// As many as it takes, the ones that were needed first going first, until so much is free on the store's file system.
    pub free: Option<Bytes>,
}

/// A path that is deleted, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectedPath {
    /// The path.
    #[schema(value_type = String)]
    pub store_path: PathBuf,
    /// Its size, unpacked; what it has in holes included.
    pub size: Bytes,
    /// When it, or a path that needs it, was needed last.
    pub needed_last: Timestamp,
    /// Why it goes.
    pub cause: CollectionCause,
}

/// Why a path that nothing needs is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CollectionCause {
    /// All that nothing needs was asked for.
    Unneeded,
    /// Nothing has needed it for long enough.
    Age,
    /// There is more that nothing needs than is to be kept.
    Amount,
    /// Too little is free.
    Space,
}

impl fmt::Display for CollectionCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unneeded => "nothing needs it",
            Self::Age => "not needed for long",
            Self::Amount => "more is kept than asked for",
            Self::Space => "space is short",
        })
    }
}

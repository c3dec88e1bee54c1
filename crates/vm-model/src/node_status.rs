//! How a host stands to the desired state it was given.

use serde::{Deserialize, Serialize};

use crate::{Generation, RefusedEntry, Timestamp};

/// What a host's reconciler tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The desired state in force; absent before there is one.
    pub generation: Option<Generation>,
    /// Since when it is in force under this worker.
    pub since: Option<Timestamp>,
    /// A desired state that waits for somebody's word.
    pub held: Option<HeldSet>,
    /// Entries of the newest desired state that could not be used.
    pub refused_entries: Vec<RefusedEntry>,
    /// Why the newest desired state that came was not taken; absent when it was.
    pub refusal: Option<String>,
}

/// A desired state that is not applied before somebody allows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSet {
    /// Its number.
    pub generation: Generation,
    /// When it came.
    pub since: Timestamp,
    /// How many VMs it would remove.
    pub removals: usize,
    /// Why it is held, and what lets it go.
    pub reason: String,
}

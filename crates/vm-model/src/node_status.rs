//! How a host stands to what it was told should run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Generation, Lineage, OperatorOrder, RefusedEntry, SourceKind, Timestamp, VmId};

/// What a host's reconciler tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Everyone who has said what should run, now or under an earlier worker.
    pub sources: BTreeMap<SourceKind, SourceStatus>,
    /// Whose word each VM follows.
    #[serde(default)]
    pub owners: BTreeMap<VmId, SourceKind>,
    /// VMs of which nobody is known to have spoken, because what was assigned was lost. They stay until somebody does.
    #[serde(default)]
    pub unclaimed: BTreeSet<VmId>,
    /// VMs that an operator keeps in another state than their assignments say.
    #[serde(default)]
    pub orders: BTreeMap<VmId, OperatorOrder>,
}

impl NodeStatus {
    /// What the first source in order waits with for somebody's word.
    pub fn held(&self) -> Option<&HeldSet> {
        self.sources.values().find_map(|source| source.held.as_ref())
    }
}

/// How a host stands to one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// Whether this worker listens to it. One that is not listened to any more is still followed where nobody else
    /// speaks of a VM.
    pub listened_to: bool,
    /// Which master, and which counting of its generations.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// The newest state that came and could be read.
    #[serde(default)]
    pub observed: Option<Generation>,
    /// The state in force; absent before there is one.
    pub generation: Option<Generation>,
    /// Since when it is in force under this worker.
    pub since: Option<Timestamp>,
    /// A state that waits for somebody's word.
    pub held: Option<HeldSet>,
    /// Entries of the newest state that could not be used.
    pub refused_entries: Vec<RefusedEntry>,
    /// Why the newest state that came was not taken; absent when it was.
    pub refusal: Option<String>,
    /// Whether it drains this host: it wants its VMs switched off for a while.
    #[serde(default)]
    pub drained: bool,
    /// When it had VMs removed or replaced lately, a moment each. Only of sources for which that is limited.
    #[serde(default)]
    pub disruptions: Vec<Timestamp>,
}

/// A desired state that is not applied before somebody allows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldSet {
    /// Its number.
    pub generation: Generation,
    /// When it came.
    pub since: Timestamp,
    /// How many VMs it would remove, or stop to replace them.
    pub removals: usize,
    /// What kind of word it waits for.
    #[serde(default)]
    pub waits_for: HoldReason,
    /// Why it is held, and what lets it go.
    pub reason: String,
}

/// What a desired state that is held waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// That removing so much is allowed.
    #[default]
    Removals,
    /// That its master, or its master's new epoch, is accepted.
    Lineage,
}

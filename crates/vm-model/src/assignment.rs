//! What should run on a host: the one form in which a file, a master or a program says it.
//!
//! Documents that people write are read by [`AssignmentSet::parse`], which says what is wrong with them and where.

mod keys;
mod nearest;
mod problem;
mod reading;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use self::nearest::nearest;
pub use self::problem::AssignmentsError;
use crate::{Bytes, Generation, VmId, hide_secrets};

/// Everything that should run on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignmentSet {
    /// The state's number; a file may leave it out and lets the worker count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The VMs. One that is not listed is removed.
    pub vms: Vec<Assignment>,
    /// Lifts the guard against mass removal for this set.
    #[serde(default)]
    pub allow_removals: bool,
    /// Whether the source drains the host: its VMs are to be off for a while. Only a master says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
    /// Entries that could not be used. Their VMs stay as they are.
    #[serde(skip)]
    pub refused: Vec<RefusedEntry>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl AssignmentSet {
    /// The desired state that `document` says: a JSON object as `docs/configuration.md` describes it, and nothing else.
    ///
    /// `null` is the same as leaving a key out. A hash is taken in every form that Nix prints, and held in SRI form. An
    /// entry that cannot be used is refused by its id ([`AssignmentSet::refused`]); the others hold.
    ///
    /// ```
    /// use vm_model::AssignmentSet;
    ///
    /// let problem = AssignmentSet::parse(r#"{"vms": [{"hash": "sha256-…="}]}"#).expect_err("whose is it?");
    /// assert!(problem.to_string().starts_with("line 1, column 10, vms[0]: the key \"id\" is missing"));
    /// ```
    ///
    /// # Errors
    /// The document is no such object, a key of it is wrong, a VM is listed twice, or an entry does not say whose it is.
    pub fn parse(document: &str) -> Result<Self, AssignmentsError> {
        reading::read_set(document)
    }
}

/// An entry of a desired state that says what cannot be used. The other entries hold all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedEntry {
    /// The VM it speaks of.
    pub id: VmId,
    /// What is wrong, where in the document, and what is accepted.
    pub problem: String,
}

/// One VM that should exist. Its secrets are not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Its name on the host.
    pub id: VmId,
    /// The NAR hash of `store_path` in SRI form, `sha256-…=`. Another hash means another VM.
    pub hash: String,
    /// The artifact.
    #[schema(value_type = String)]
    pub store_path: PathBuf,
    /// The phase it should be in.
    #[serde(default)]
    pub desired: DesiredState,
    /// What differs from the artifact's own description.
    #[serde(default)]
    pub overrides: Overrides,
    /// Hashes of further store paths that the artifact reaches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub references: BTreeMap<PathBuf, String>,
    /// Settings that take precedence over those under the artifact's key `procurator`, member by member.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub procurator: Map<String, Value>,
}

impl Assignment {
    /// VM `id`, running, from the artifact at `store_path` with `hash`, as the artifact describes it.
    pub fn new(id: VmId, hash: impl Into<String>, store_path: impl Into<PathBuf>) -> Self {
        Self {
            id,
            hash: hash.into(),
            store_path: store_path.into(),
            desired: DesiredState::default(),
            overrides: Overrides::default(),
            references: BTreeMap::new(),
            procurator: Map::new(),
        }
    }
}

impl Assignment {
    /// The same with its secrets hidden: what is shown to people.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        hide_secrets(&mut self.procurator);
        self
    }
}

impl fmt::Debug for Assignment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, hash, store_path, desired, overrides, references, procurator } = self;
        let mut shown = procurator.clone();
        hide_secrets(&mut shown);
        formatter
            .debug_struct("Assignment")
            .field("id", id)
            .field("hash", hash)
            .field("store_path", store_path)
            .field("desired", desired)
            .field("overrides", overrides)
            .field("references", references)
            .field("procurator", &shown)
            .finish()
    }
}

/// The phase a VM should be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// Running.
    #[default]
    Running,
    /// Built, with its vCPUs parked.
    Paused,
    /// Off, its disks and address kept.
    Stopped,
}

impl DesiredState {
    /// Its name, as phases are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// Values that replace those of the artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Number of vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u8>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
    /// Text put after the artifact's kernel command line, with a space between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline_append: Option<String>,
}

#[cfg(test)]
mod tests;

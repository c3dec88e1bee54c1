//! A rollout in progress, or one that failed, as it stands in a VM's record.

use serde::{Deserialize, Serialize};
use vm_model::{Assignment, FailureReason, RolloutSpec, VmNic};

use crate::definition::is_same_definition;

/// A definition that is tried, or was.
///
/// ```text
/// (none) ──▶ OnTrial ──▶ (none)    accepted, or interrupted: its machine is gone for another reason than itself
///               │
///               └──────▶ Refused   the definition before is in force again; until another one is assigned
/// ```
///
/// Disks on trial belong to the rollout on record. Where there is none, what they are on is there to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    /// The definition to go back to.
    pub(crate) before: Assignment,
    /// The definition that the machine on trial was launched by.
    pub(crate) tried: Assignment,
    /// How long it has, and what happens when it fails.
    pub(crate) spec: RolloutSpec,
    /// How far it is.
    pub(crate) stage: RolloutStage,
    /// The addresses that the VM had before, to go back to; absent where an earlier worker began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<Vec<VmNic>>,
}

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RolloutStage {
    /// The machine of the definition is being launched, or runs.
    OnTrial,
    /// It failed: its machine is stopped if it still runs, and the disks go back.
    Refused(Box<RefusedTrial>),
}

/// A definition that was refused after its trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedTrial {
    /// The definition: the one that was tried, or a later one of the same machine.
    pub(crate) assignment: Assignment,
    /// Why.
    pub(crate) reason: FailureReason,
}

impl Rollout {
    /// What is refused; nothing while it is on trial.
    pub(crate) fn refused(&self) -> Option<&RefusedTrial> {
        match &self.stage {
            RolloutStage::OnTrial => None,
            RolloutStage::Refused(refused) => Some(refused),
        }
    }

    /// Whether a machine that was launched by `assignment` is the one on trial.
    pub(crate) fn tries(&self, assignment: &Assignment) -> bool {
        is_same_definition(&self.tried, assignment)
    }
}

impl RefusedTrial {
    /// Whether it is about `assignment`.
    pub(crate) fn is_of(&self, assignment: &Assignment) -> bool {
        is_same_definition(&self.assignment, assignment)
    }
}

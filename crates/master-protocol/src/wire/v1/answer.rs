//! `accepted` and `refused`: what became of an assignment.

use serde::{Deserialize, Serialize};
use vm_model::VmId;

use super::{Epoch, Words};
use crate::wire::{List, Text};

/// The assignment is on the worker's stable storage, and in force unless it is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The assignment's epoch.
    pub epoch: Epoch,
    /// The assignment's number.
    pub generation: u64,
    /// There where it waits for somebody's word and is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// What was ordered, in the order of the plan; the first 4,096.
    #[serde(default)]
    pub outcomes: List<Outcome, 4096>,
}

/// An assignment that waits for somebody's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its number.
    pub generation: u64,
    /// Since when.
    pub since_ms: u64,
    /// How many VMs it would remove, or stop to replace them.
    pub removals: u64,
    /// What kind of word it waits for.
    #[serde(default)]
    pub waits_for: HeldFor,
    /// Why, and what lets it go.
    pub reason: Words,
}

/// What an assignment that is held waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldFor {
    /// That so many VMs may be removed.
    #[default]
    Removals,
    /// That the host follows this master, or this epoch of it.
    Lineage,
    /// A word of a newer worker.
    #[serde(other)]
    Unknown,
}

/// What became of one action of the plan that an assignment led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The VM.
    pub vm: VmId,
    /// The action, for a person.
    pub action: Text<512>,
    /// Why it was not ordered; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Words>,
}

/// The assignment is not in force; the one before stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The assignment's epoch.
    pub epoch: Epoch,
    /// The assignment's number.
    pub generation: u64,
    /// Why, for a program.
    pub code: RefusalCode,
    /// Why, for a person.
    #[serde(default)]
    pub text: Words,
}

/// Why an assignment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// It is no desired state.
    Malformed,
    /// Its generation is lower than the one in force.
    Older,
    /// It has the generation of what is in force and says something else.
    Contradiction,
    /// Its epoch is not the one of the `welcome`.
    WrongEpoch,
    /// The worker follows another source.
    WrongSource,
    /// It could not be put on stable storage.
    NotKept,
    /// The worker is shutting down.
    ShuttingDown,
    /// A code of a newer worker.
    #[serde(other)]
    Unknown,
}

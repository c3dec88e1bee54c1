//! `assignment`: what should run, in the one form that files and programs say it in as well.
//!
//! The message's envelope skips keys it does not know. What it says of VMs is read by [`AssignmentSet::parse`] alone,
//! which refuses an entry with a key it does not know: an entry that is half understood would be another machine.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vm_model::{AssignmentSet, AssignmentsError, Generation, Lineage};

use super::Epoch;

/// What should run on the worker from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The epoch of the `welcome`.
    pub epoch: Epoch,
    /// The number of this state.
    pub generation: u64,
    /// Whether it may remove many VMs at once.
    #[serde(default, deserialize_with = "null_is_false")]
    pub allow_removals: bool,
    /// Whether the worker is drained: its VMs are off only for a while.
    #[serde(default, deserialize_with = "null_is_false")]
    pub drained: bool,
    /// The list of VMs as JSON.
    vms: Box<RawValue>,
}

/// As it is written: two assignments are equal where they would be written with the same bytes.
impl PartialEq for Assignment {
    fn eq(&self, other: &Self) -> bool {
        let envelope = |one: &Self| (one.epoch.clone(), one.generation, one.allow_removals, one.drained);
        envelope(self) == envelope(other) && self.vms.get() == other.vms.get()
    }
}

impl Eq for Assignment {}

impl Assignment {
    /// `set` as the assignment with the number `generation` in the counting of `lineage`.
    ///
    /// # Errors
    /// The VMs cannot be written as JSON: a path in them is no UTF-8.
    pub fn new(
        lineage: &Lineage,
        generation: Generation,
        set: &AssignmentSet,
    ) -> Result<Self, serde_json::Error> {
        let vms = serde_json::value::to_raw_value(&set.vms)?;
        let epoch = Epoch::cut(lineage.epoch());
        let AssignmentSet { allow_removals, drained, .. } = *set;
        Ok(Self { epoch, generation: generation.get(), allow_removals, drained, vms })
    }

    /// What it says, as a file of assignments would say it. Places in errors are those of that file.
    ///
    /// # Errors
    /// It is no desired state; an entry that cannot be used is in [`AssignmentSet::refused`] instead.
    pub fn read(&self) -> Result<AssignmentSet, AssignmentsError> {
        let Self { epoch: _, generation, allow_removals, drained, vms } = self;
        let document =
            format!(r#"{{"generation":{generation},"allow_removals":{allow_removals},"vms":{}}}"#, vms.get());
        let set = AssignmentSet::parse(&document)?;
        Ok(AssignmentSet { drained: *drained, ..set })
    }
}

fn null_is_false<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}

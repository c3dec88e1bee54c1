//! What a VM's supervisor is told: where the VM should be, and what it should be.

use std::sync::Arc;

use vm_model::{Assignment, DesiredState, Generation, OperatorOrder};

use super::step::{DefinitionNumber, Goal, OrderNumber, Stamp};
use crate::records::VmRecord;

/// Where a VM should be, and what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What it should be.
    pub(crate) assignment: Arc<Assignment>,
    /// The desired state that said so.
    pub(crate) generation: Generation,
    /// Where it should be.
    pub(crate) goal: Goal,
    /// How often it was told something of where it should be.
    pub(crate) number: OrderNumber,
    /// The operator's order that the goal follows, where it is none of the desired state.
    pub(super) order: Option<OperatorOrder>,
    /// How much time a machine is given that is to end.
    pub(super) patience: Patience,
    pub(super) stamp: Stamp,
}

impl Target {
    /// The VM should be in the state `desired` from now on.
    pub(super) fn be(&mut self, desired: DesiredState) {
        self.goal = Goal::Be(desired);
        let mut assignment = Assignment::clone(&self.assignment);
        assignment.desired = desired;
        self.assignment = Arc::new(assignment);
    }

    /// Whether it says the same as `other`.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.goal == other.goal
            && self.stamp == other.stamp
            && self.order == other.order
            && self.patience == other.patience
            && self.generation == other.generation
            && Arc::ptr_eq(&self.assignment, &other.assignment)
    }
}

/// Whether an order starts a machine anew although one runs, has failed or has switched itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// No.
    Same,
    /// Yes.
    StartAfresh,
}

/// How much time a machine is given that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Its guest is asked, and has the time that is configured.
    Full,
    /// None: it is killed.
    None,
}

/// What was asked of a VM on record whose definition in force has the number `in_force`.
pub(super) fn stamp_after(in_force: DefinitionNumber, record: &VmRecord) -> Stamp {
    let mut stamp = Stamp { definition: in_force, ..Stamp::default() };
    if record.in_force.is_some() {
        // The newest definition is another than the one in force.
        stamp.definition = stamp.definition.next();
    }
    stamp
}

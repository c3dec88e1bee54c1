//! Orders of this host's operators, which go before what a VM's source says of its state. Pure.
//!
//! An order is given over one assignment. It is in force for as long as the VM's source says exactly that; once it says
//! anything else of the VM, or another source's word is followed, the order is over. That a source drains this host, and
//! wants its VMs off for a while, is no word of one VM: an order given before waits, and is in force again after that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vm_model::{Assignment, DesiredState, OperatorOrder, Timestamp, VmId, VmStatus};

use super::intent::{DrainState, Wanted};
use super::plan::{Action, ObservedVm};

/// The orders in force, by VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Orders(BTreeMap<VmId, StandingOrder>);

/// One order, with the assignment over which it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StandingOrder {
    desired: DesiredState,
    given_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<u32>,
    /// What the VM's source said when the order was given.
    over: Assignment,
}

/// When an order was given, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// When.
    pub at: Timestamp,
    /// The numeric user id of whoever gave it, where that is known.
    pub by: Option<u32>,
}

impl StandingOrder {
    /// Whether the order is in force, or will be when the VM's source drains this host no longer.
    fn can_hold(&self, wanted: &Wanted) -> bool {
        let DrainState::Drained = wanted.drain else { return wanted.assignment == self.over };
        let before = Assignment { desired: self.over.desired, ..wanted.assignment.clone() };
        before == self.over
    }
}

impl Orders {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Orders that a VM whose source drains this host and says `over` of it stays off when the drain is taken back. A stop
    /// that was ordered before keeps its time.
    pub(super) fn stop_drained(&mut self, over: &Assignment, given: Given) {
        let off_for_now = |order: &StandingOrder| {
            order.desired == DesiredState::Stopped
                && Assignment { desired: order.over.desired, ..over.clone() } == order.over
        };
        if !self.0.get(&over.id).is_some_and(off_for_now) {
            // What its source wanted of it before the drain, and will want again, is not told; a VM that runs is what it is
            // in doubt.
            let over = Assignment { desired: DesiredState::Running, ..over.clone() };
            let order =
                StandingOrder { desired: DesiredState::Stopped, given_at: given.at, by: given.by, over };
            self.0.insert(order.over.id.clone(), order);
        }
    }

    /// Orders `desired` of the VM of which its source says `over`. Where that is the same state, there is nothing to
    /// override, and an earlier order is withdrawn. An order that is repeated keeps its time.
    pub(super) fn give(&mut self, over: &Assignment, desired: DesiredState, given: Given) {
        let is_in_force =
            self.0.get(&over.id).is_some_and(|order| order.desired == desired && order.over == *over);
        if desired == over.desired {
            self.0.remove(&over.id);
        } else if !is_in_force {
            let order = StandingOrder { desired, given_at: given.at, by: given.by, over: over.clone() };
            self.0.insert(over.id.clone(), order);
        }
    }

    /// The order of the VM of `assignment`, if there is one, holds although its source says that of it by now.
    pub(super) fn carry_over(&mut self, assignment: &Assignment) {
        if let Some(order) = self.0.get_mut(&assignment.id) {
            order.over = assignment.clone();
        }
    }

    /// Withdraws the order of `id`, if there is one.
    pub(super) fn withdraw(&mut self, id: &VmId) {
        self.0.remove(id);
    }

    /// Forgets the orders that are over, now that the sources come to `wanted` together.
    pub(super) fn settle(&mut self, wanted: &BTreeMap<VmId, Wanted>) {
        self.0.retain(|id, order| wanted.get(id).is_some_and(|wanted| order.can_hold(wanted)));
    }

    /// Lets the orders in force go before what the sources say in `wanted`.
    pub(super) fn override_states(&self, wanted: &mut BTreeMap<VmId, Wanted>) {
        for (id, order) in &self.0 {
            let Some(wanted) = wanted.get_mut(id).filter(|wanted| wanted.assignment == order.over) else {
                continue;
            };
            wanted.assignment.desired = order.desired;
            wanted.order = Some(OperatorOrder {
                desired: order.desired,
                assigned: order.over.desired,
                given_at: order.given_at,
                by: order.by,
            });
        }
    }
}

/// What an order of `desired` does to VM `id` where no plan does anything: a VM that nobody has spoken of is moved, and
/// one that should have a machine and has none, because its guest switched itself off or it failed, is started.
pub(crate) fn order_action(
    id: &VmId,
    desired: DesiredState,
    present: &ObservedVm,
    status: &VmStatus,
) -> Option<Action> {
    if present.assignment.desired != desired {
        return Some(Action::Move(id.clone(), desired));
    }
    let is_off = match status {
        VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) => true,
        VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping => false,
    };
    (is_off && desired != DesiredState::Stopped).then(|| Action::Retry(id.clone()))
}

#[cfg(test)]
mod tests;

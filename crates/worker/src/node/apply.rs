//! Observing the VMs, planning what leads them to what is wanted, and telling their supervisors.

use std::collections::BTreeMap;

use fail_points::{FailPoint, pass};
use tracing::{error, info};
use vm_model::{AssignmentSet, Generation, SourceKind, VmId};

use super::capacity::refuse_oversized;
use super::intent::Merged;
use super::ports::{passing, present, refuse_conflicts, wanted};
use super::{Action, Described, Observed, Outcome, plan, redefined};
use crate::capacity::DemandChange;
use crate::failure::chain;
use crate::supervisor::PortClaims;
use crate::vms::VmManager;
use crate::volumes::Thoroughness;

/// What leads to a desired state.
#[derive(Debug)]
pub(super) struct Planned {
    /// All changes.
    pub(super) actions: Vec<Action>,
    /// Which ports of the host lead where then.
    pub(super) ports: PortClaims,
    /// The ports that pass from one VM to another, in words.
    pub(super) passing: Vec<String>,
    /// How that changes which is promised to VMs that are there.
    pub(super) promises: DemandChange,
}

/// What leads to `merged`.
pub(super) async fn plan_towards(
    vm_manager: &VmManager,
    merged: &Merged,
    thoroughness: Thoroughness,
) -> Planned {
    let desired = merged.to_set();
    let (observed, mut described) = look(vm_manager, &desired, thoroughness).await;
    let promises = refuse_oversized(&desired, &observed, &mut described, vm_manager.capacity_check());
    refuse_conflicts(&desired, &observed, &mut described);
    let ports = wanted(&desired, &observed, &described);
    Planned {
        actions: plan(&desired, &observed, &described, vm_manager.config().removal_grace),
        passing: passing(&present(&observed), &ports),
        ports,
        promises,
    }
}

/// What there is, and what changed definitions would make of it.
async fn look(
    vm_manager: &VmManager,
    desired: &AssignmentSet,
    thoroughness: Thoroughness,
) -> (Observed, Described) {
    let observed = vm_manager.observe();
    let changed = redefined(desired, &observed).into_iter().cloned().collect();
    let described = vm_manager.describe(changed, thoroughness).await;
    (observed, described)
}

/// Leaves out what tries again VMs of which `source` does not speak.
pub(super) fn without_retries_of_others(actions: &mut Vec<Action>, merged: &Merged, source: SourceKind) {
    actions.retain(|action| match action {
        Action::Retry(id) => merged.vms.get(id).is_some_and(|wanted| wanted.source == source),
        Action::Create(_) | Action::Redefine(..) | Action::Move(..) | Action::Remove(..) => true,
    });
}

/// Tells supervisors what follows for their VMs, and each VM which state it is part of and
/// what an operator ordered of it.
///
/// VMs that nobody speaks of any more are removed by the state with the number `removing`, as far as it is known.
pub(super) fn apply(
    vm_manager: &VmManager,
    merged: &Merged,
    planned: Planned,
    removing: Option<Generation>,
) -> Vec<Outcome> {
    let Planned { actions, ports, passing: _, promises: _ } = planned;
    // Before anybody is told anything: whoever gives a port up is known by this.
    vm_manager.claim_ports(ports);
    if actions.is_empty() {
        info!(vms = merged.vms.len(), "nothing to change");
    }
    // First, so that a VM that is stopped by order knows by what; and last, for VMs that are created.
    let orders = merged.orders();
    vm_manager.tell_orders(&orders);
    let outcomes = actions.into_iter().map(|action| {
        let wanted = merged.vms.get(action.vm());
        order(vm_manager, action, wanted.map_or(removing, |wanted| Some(wanted.generation)))
    });
    let outcomes = outcomes.collect();
    vm_manager.tell_orders(&orders);
    for (id, wanted) in &merged.vms {
        vm_manager.settle(id, wanted.assignment.desired);
    }
    let mut numbers: BTreeMap<Generation, Vec<&VmId>> = BTreeMap::new();
    for (id, wanted) in &merged.vms {
        numbers.entry(wanted.generation).or_default().push(id);
    }
    for (generation, vms) in numbers {
        vm_manager.number(vms.into_iter(), generation);
    }
    outcomes
}

/// Tells a supervisor what follows for its VM.
fn order(vm_manager: &VmManager, action: Action, number: Option<Generation>) -> Outcome {
    let generation = number.map(Generation::get);
    let (vm, words, restarts) = (action.vm().clone(), action.to_string(), action.restarts());
    info!(generation, vm_id = %vm, "{words}");
    let ordered = match action {
        Action::Create(assignment) | Action::Redefine(assignment, _) => {
            vm_manager.define(assignment, number.unwrap_or_default())
        }
        Action::Move(id, desired) => vm_manager.desire(&id, desired),
        Action::Retry(id) => vm_manager.start_afresh(&id),
        Action::Remove(id, _) => vm_manager.order_removal(&id),
    };
    pass(FailPoint::DesiredOrdered);
    let problem = ordered.err().map(|problem| chain(&problem));
    if let Some(problem) = &problem {
        error!(generation, vm_id = %vm, error = problem, "not applied");
    }
    Outcome { vm, action: words, problem, restarts }
}

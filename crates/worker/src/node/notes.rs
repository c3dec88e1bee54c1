//! What a dry run has to say beside its actions: about orders that end, VMs that are not what is assigned already, and VMs
//! that would be created.

use std::collections::BTreeSet;

use vm_model::{DesiredState, FailureReason, OperatorOrder, SourceKind, VmId, VmInfo, VmNic, VmStatus};

use super::Action;
use super::intent::Merged;
use super::ports::claim;
use crate::capacity::{Demand, DemandChange};
use crate::supervisor::PortClaims;
use crate::vms::VmManager;
use crate::volumes::Thoroughness;

/// What is to be said when `actions` lead from what was said `before` to `after`, by which VMs that are there have `ports` of the host.
pub(super) async fn notes(
    vm_manager: &VmManager,
    before: &Merged,
    after: &Merged,
    actions: &[Action],
    promises: DemandChange,
    ports: PortClaims,
) -> Vec<String> {
    let mut notes = ended_orders(before, after);
    notes.extend(vm_manager.pending_networks());
    notes.extend(troubles(&vm_manager.list_vms(), after, actions));
    notes.extend(creations(vm_manager, actions, promises, ports).await);
    notes
}

/// Entries of `kind` that change nothing, because another source goes first.
pub(super) fn overridden(after: &Merged, kind: SourceKind) -> Vec<String> {
    let entries = after.outranked.get(&kind).into_iter().flatten();
    entries.map(|entry| format!("the entry of {} is not followed: {}", entry.id, entry.problem)).collect()
}

/// The orders of operators that are over once `after` is said.
fn ended_orders(before: &Merged, after: &Merged) -> Vec<String> {
    let standing = after.orders();
    let ended = before.orders().into_iter().filter(|(id, _)| !standing.contains_key(id));
    let note = |(id, order): (VmId, OperatorOrder)| {
        let why = match after.vms.contains_key(&id) {
            true => "its assignment changes",
            false => "it is assigned no longer",
        };
        format!("{id} is {order}: this order ends, because {why}")
    };
    ended.map(note).collect()
}

/// What is wrong with VMs that are assigned as they should be and that no action touches.
fn troubles(vms: &[VmInfo], after: &Merged, actions: &[Action]) -> Vec<String> {
    let touched: BTreeSet<&VmId> = actions.iter().map(Action::vm).collect();
    let untouched = vms.iter().filter(|vm| !touched.contains(&vm.id));
    let assigned = untouched.filter_map(|vm| Some((vm, after.vms.get(&vm.id)?.assignment.desired)));
    assigned.flat_map(|(vm, desired)| troubles_of(vm, desired)).collect()
}

fn troubles_of(vm: &VmInfo, desired: DesiredState) -> Vec<String> {
    let id = &vm.id;
    if let Some(refusal) = vm.wanted.as_ref().and_then(|wanted| wanted.refusal.as_ref()) {
        let next = next_step(refusal);
        return vec![format!("{id} is not as assigned: its change is refused, {next}: {refusal}")];
    }
    match &vm.status {
        VmStatus::Failed(reason) if desired != DesiredState::Stopped => {
            vec![format!("{id} has failed and is not tried again: {reason}; `start {id}` tries again")]
        }
        VmStatus::Failed(_)
        | VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping
        | VmStatus::Stopped
        | VmStatus::Restarting => {
            let of_nic = |nic: &VmNic| {
                let mismatch = nic.mismatch.as_ref()?;
                Some(format!("{id} runs on with its interface {} as it is: {mismatch}", nic.id))
            };
            vm.nics.iter().filter_map(of_nic).collect()
        }
    }
}

fn next_step(refusal: &FailureReason) -> &'static str {
    if refusal.can_retry_help() { "and tried again by and by" } else { "until it is assigned otherwise" }
}

/// What is known already of VMs that `actions` create, beside those that are there, to which is promised what `promises` says and
/// which have `ports` of the host.
async fn creations(
    vm_manager: &VmManager,
    actions: &[Action],
    mut promises: DemandChange,
    mut ports: PortClaims,
) -> Vec<String> {
    let created = actions.iter().filter_map(|action| match action {
        Action::Create(assignment) => Some(assignment.clone()),
        Action::Redefine(..) | Action::Move(..) | Action::Retry(_) | Action::Remove(..) => None,
    });
    let created: Vec<_> = created.collect();
    let created_ids: BTreeSet<&VmId> = created.iter().map(|vm| &vm.id).collect();
    let removed = vm_manager.list_removed_vms();
    let back = removed.iter().map(|vm| &vm.assignment.id).filter(|id| created_ids.contains(id));
    let back = back.map(|id| format!("{id} was removed and comes back with its volumes"));
    let described = vm_manager.describe(created.clone(), Thoroughness::Quick).await;
    let check = vm_manager.capacity_check();
    let is_off = |id: &VmId| created.iter().any(|vm| vm.id == *id && vm.desired == DesiredState::Stopped);
    let wished = created.iter().filter(|vm| !is_off(&vm.id)).filter_map(|vm| {
        let new = described.get(&vm.id)?.as_ref().ok()?;
        Some((vm.clone(), new.description.nics.clone()))
    });
    let mut without_address = vm_manager.foresee_leases(&wished.collect::<Vec<_>>());
    let failing = described.into_iter().filter_map(|(id, described)| {
        let fits = described.and_then(|new| {
            let wanted = new.description.machine.footprint();
            if !is_off(&id) {
                check(&wanted, &promises)?;
                promises.added = promises.added.with(&Demand::of(&wanted));
                if let Some(problem) = without_address.remove(&id) {
                    return Err(problem.message);
                }
                claim(&mut ports, &id, new.description.forwards())?;
            }
            Ok(())
        });
        fits.err().map(|problem| format!("{id} would not start: {problem}"))
    });
    back.chain(failing).collect()
}

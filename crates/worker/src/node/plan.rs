//! From what should run and what is there to what must change. Pure: a plan is a value that a test, a dry run
//! and a log line can show.

use std::collections::BTreeMap;
use std::fmt;

use vm_model::{Assignment, AssignmentSet, DesiredState, VmId};

/// What is there: every VM this host has, as it was defined last.
pub type Observed = BTreeMap<VmId, Assignment>;

/// One change. Each concerns one VM and can be carried out without regard to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A VM that is not there yet.
    Create(Assignment),
    /// A VM whose artifact or description changed: its machine and its disks go, the new ones come.
    Replace(Assignment),
    /// A VM that stays what it is and should be in another state.
    Move(VmId, DesiredState),
    /// A VM that should be no more.
    Remove(VmId),
}

impl Action {
    /// The VM it concerns.
    pub fn vm(&self) -> &VmId {
        match self {
            Self::Create(assignment) | Self::Replace(assignment) => &assignment.id,
            Self::Move(id, _) | Self::Remove(id) => id,
        }
    }

    /// Whether it takes a VM's machine or disks away.
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Replace(_) | Self::Remove(_) => true,
            Self::Create(_) | Self::Move(..) => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(assignment) => write!(formatter, "create {}", assignment.id),
            Self::Replace(assignment) => write!(formatter, "replace {}", assignment.id),
            Self::Move(id, DesiredState::Running) => write!(formatter, "run {id}"),
            Self::Move(id, DesiredState::Paused) => write!(formatter, "pause {id}"),
            Self::Move(id, DesiredState::Stopped) => write!(formatter, "stop {id}"),
            Self::Remove(id) => write!(formatter, "remove {id}"),
        }
    }
}

/// All changes that lead from what is there to what should be; empty where nothing is to be done.
///
/// Removals come first, so that what they free is there for creations; within a kind, VMs are in order of their
/// ids. `desired` has each id at most once (see [`super::admit`]).
pub fn plan(desired: &AssignmentSet, observed: &Observed) -> Vec<Action> {
    let wanted: BTreeMap<&VmId, &Assignment> = desired.vms.iter().map(|vm| (&vm.id, vm)).collect();
    // A VM whose entry could not be used is meant to be there: nobody knows yet as what.
    let is_refused = |id: &VmId| desired.refused.iter().any(|entry| entry.id == *id);
    let gone = observed.keys().filter(|id| !wanted.contains_key(id) && !is_refused(id));
    let removals = gone.cloned().map(Action::Remove);
    let changes = wanted.iter().filter_map(|(id, &wanted)| match observed.get(*id) {
        None => Some(Action::Create(wanted.clone())),
        Some(present) if is_other_machine(present, wanted) => Some(Action::Replace(wanted.clone())),
        Some(present) if present.desired != wanted.desired => {
            Some(Action::Move((*id).clone(), wanted.desired))
        }
        Some(_) => None,
    });
    removals.chain(changes).collect()
}

/// Whether a VM defined by `wanted` is another machine than one defined by `present`.
fn is_other_machine(present: &Assignment, wanted: &Assignment) -> bool {
    present.hash != wanted.hash
        || present.store_path != wanted.store_path
        || present.overrides != wanted.overrides
        || present.references != wanted.references
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assignment(name: u8, hash: u8, desired: DesiredState) -> Assignment {
        let id = VmId::new(&format!("vm-{name}"));
        Assignment { desired, ..Assignment::new(id, format!("sha256-{hash}"), "/nix/store/x") }
    }

    fn any_vms() -> impl Strategy<Value = BTreeMap<u8, Assignment>> {
        let desired =
            prop_oneof![Just(DesiredState::Running), Just(DesiredState::Paused), Just(DesiredState::Stopped)];
        prop::collection::btree_map(0_u8..6, (0_u8..3, desired), 0..6).prop_map(|vms| {
            vms.into_iter().map(|(name, (hash, desired))| (name, assignment(name, hash, desired))).collect()
        })
    }

    fn carried_out(plan: &[Action], mut observed: Observed) -> Observed {
        for action in plan {
            match action.clone() {
                Action::Create(new) => assert!(observed.insert(new.id.clone(), new).is_none()),
                Action::Replace(new) => assert!(observed.insert(new.id.clone(), new).is_some()),
                Action::Move(id, desired) => observed.get_mut(&id).expect("is there").desired = desired,
                Action::Remove(id) => assert!(observed.remove(&id).is_some()),
            }
        }
        observed
    }

    #[test]
    fn a_vm_whose_entry_was_refused_stays_as_it_is() {
        let present = assignment(0, 0, DesiredState::Running);
        let entry = vm_model::RefusedEntry { id: present.id.clone(), problem: "no hash".to_owned() };
        let desired = AssignmentSet { refused: vec![entry], ..AssignmentSet::default() };
        assert_eq!(plan(&desired, &[(present.id.clone(), present)].into()), []);
    }

    #[test]
    fn a_plan_reads_as_what_it_does() {
        let observed = [(0, 0), (1, 0), (2, 0)]
            .map(|(name, hash)| assignment(name, hash, DesiredState::Running))
            .map(|vm| (vm.id.clone(), vm))
            .into();
        let desired = AssignmentSet {
            vms: vec![
                assignment(3, 0, DesiredState::Running),
                assignment(2, 0, DesiredState::Paused),
                assignment(1, 9, DesiredState::Running),
            ],
            ..AssignmentSet::default()
        };
        let plan: Vec<String> = plan(&desired, &observed).iter().map(ToString::to_string).collect();
        assert_eq!(plan, ["remove vm-0", "replace vm-1", "pause vm-2", "create vm-3"]);
    }

    proptest! {
        #[test]
        fn a_plan_leads_to_what_is_desired_and_then_there_is_nothing_to_do(
            before in any_vms(), after in any_vms(),
        ) {
            let observed: Observed = before.into_values().map(|vm| (vm.id.clone(), vm)).collect();
            let desired = AssignmentSet { vms: after.into_values().collect(), ..AssignmentSet::default() };
            let steps = plan(&desired, &observed);
            let touched: Vec<&VmId> = steps.iter().map(Action::vm).collect();
            let reached = carried_out(&steps, observed);
            let wanted: Observed = desired.vms.iter().map(|vm| (vm.id.clone(), vm.clone())).collect();
            prop_assert_eq!(&reached, &wanted);
            prop_assert_eq!(plan(&desired, &reached), vec![]);
            let unique: std::collections::BTreeSet<_> = touched.iter().collect();
            prop_assert_eq!(unique.len(), touched.len());
        }
    }
}

//! Which changed definitions want more than this host can promise once a desired state holds. Pure.

use std::collections::{BTreeMap, BTreeSet};

use vm_model::{AssignmentSet, DesiredState, Footprint, VmId};

use super::{Described, Observed};
use crate::capacity::{Demand, DemandChange};

/// What a VM that changes takes of its host.
#[derive(Clone, Copy, Debug)]
struct Need {
    /// What is promised to its present machine.
    has: Demand,
    /// What its next one is to have.
    wants: Footprint,
}

/// Refuses in `described` each change for which `check` finds too little of the host beside all else that `desired` changes,
/// and answers what that comes to. What VMs give up is there for those that want more, which get it in the order of their names.
pub(super) fn refuse_oversized(
    desired: &AssignmentSet,
    observed: &Observed,
    described: &mut Described,
    check: impl Fn(&Footprint, &DemandChange) -> Result<(), String>,
) -> DemandChange {
    let running = desired.vms.iter().filter(|vm| vm.desired != DesiredState::Stopped);
    let running: BTreeSet<&VmId> = running.map(|vm| &vm.id).collect();
    let untouched: BTreeSet<&VmId> = desired.refused.iter().map(|entry| &entry.id).collect();
    let ending = observed.iter().filter(|(id, _)| !running.contains(id) && !untouched.contains(id));
    let freed = ending.fold(Demand::default(), |freed, (_, vm)| freed.with(&vm.promised.unwrap_or_default()));
    let needs = described.iter().filter(|(id, _)| running.contains(id)).filter_map(|(id, new)| {
        let (has, new) = (observed.get(id)?.promised?, new.as_ref().ok()?);
        Some((id.clone(), Need { has, wants: new.description.machine.footprint() }))
    });
    let (refused, change) = judge(&needs.collect(), DemandChange { freed, ..DemandChange::default() }, check);
    described.extend(refused.into_iter().map(|(id, problem)| (id, Err(problem))));
    change
}

/// Which of `needs` cannot be met, after `change` and what all of them give up; and the change with those that can.
fn judge(
    needs: &BTreeMap<VmId, Need>,
    mut change: DemandChange,
    check: impl Fn(&Footprint, &DemandChange) -> Result<(), String>,
) -> (BTreeMap<VmId, String>, DemandChange) {
    let mut refused = BTreeMap::new();
    for Need { has, wants } in needs.values() {
        change.freed = change.freed.with(&has.without(&Demand::of(wants)));
    }
    for (id, Need { has, wants }) in needs {
        let demand = Demand::of(wants);
        if !demand.exceeds(has) {
            continue;
        }
        match check(wants, &DemandChange { freed: change.freed.with(has), ..change }) {
            Ok(()) => change.added = change.added.with(&demand.without(has)),
            Err(problem) => drop(refused.insert(id.clone(), problem)),
        }
    }
    (refused, change)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::{Bytes, MemoryBacking, MemorySpec};

    use super::*;

    fn memory(mib: u64) -> Footprint {
        let backing = MemoryBacking::SharedMemfd;
        Footprint::of_memory(MemorySpec { size: Bytes::from_mib(mib), backing, prefault: false })
    }

    fn needs(needs: &[(u64, u64)]) -> BTreeMap<VmId, Need> {
        let need = |(number, (has, wants)): (usize, &(u64, u64))| {
            let has = if *has == 0 { Demand::default() } else { Demand::of(&memory(*has)) };
            (VmId::new(&format!("vm-{number:02}")), Need { has, wants: memory(*wants) })
        };
        needs.iter().enumerate().map(need).collect()
    }

    #[test]
    fn what_one_gives_up_is_there_for_another() {
        let promised = memory(600).ordinary_memory().get() + memory(400).ordinary_memory().get();
        let check = |memory: &Footprint, change: &DemandChange| {
            let all = promised + change.added.memory.get() + memory.ordinary_memory().get()
                - change.freed.memory.get();
            if all <= promised { Ok(()) } else { Err("too much".to_owned()) }
        };
        let judged = |pairs: &[(u64, u64)]| {
            let (refused, change) = judge(&needs(pairs), DemandChange::default(), check);
            (refused.into_keys().map(|id| id.to_string()).collect::<Vec<_>>(), change)
        };
        let (refused, change) = judged(&[(600, 400), (400, 600)]);
        let moved = Demand::of(&memory(600)).without(&Demand::of(&memory(400)));
        assert_eq!((refused, change.freed, change.added), (vec![], moved, moved));
        assert_eq!(judged(&[(600, 400), (400, 601)]).0, ["vm-01"]);
        assert_eq!(judged(&[(600, 600), (400, 500)]).0, ["vm-01"], "nobody gives anything up");
    }

    proptest! {
        #[test]
        fn what_is_let_through_fits_and_nothing_that_fits_is_refused(
            pairs in prop::collection::vec((0_u64..300, 1_u64..300), 0..8),
            room in 0_u64..600,
        ) {
            let needs = needs(&pairs);
            let before: u64 = needs.values().map(|need| need.has.memory.get()).sum();
            let limit = before + Bytes::from_mib(room).get();
            let check = |memory: &Footprint, change: &DemandChange| {
                let all = before + change.added.memory.get() + memory.ordinary_memory().get() - change.freed.memory.get();
                if all <= limit { Ok(()) } else { Err(String::new()) }
            };
            let (refused, change) = judge(&needs, DemandChange::default(), check);
            let comes_to = |id: &VmId, need: &Need| {
                if refused.contains_key(id) { need.has.memory.get() } else { need.wants.ordinary_memory().get() }
            };
            let after: u64 = needs.iter().map(|(id, need)| comes_to(id, need)).sum();
            prop_assert!(after <= limit);
            prop_assert_eq!(before + change.added.memory.get() - change.freed.memory.get(), after);
            let wanted: u64 = needs.values().map(|need| need.wants.ordinary_memory().get()).sum();
            prop_assert!(wanted > limit || refused.is_empty());
        }
    }
}

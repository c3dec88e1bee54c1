//! Whether a new desired state may take the place of the present one of its source. Pure.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use vm_model::{AssignmentSet, Generation, SourceKind, VMS_MOST, VmId};

use super::intent::Wanted;

/// Why a desired state was refused. The one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is older than what is in force.
    #[error("generation {offered} is older than generation {current}, which is in force")]
    Older {
        /// The number that came.
        offered: Generation,
        /// The number in force.
        current: Generation,
    },
    /// It has the number of what is in force and says something else.
    #[error("generation {generation} is in force with other VMs; a changed state needs a higher generation")]
    Contradiction {
        /// The number of both.
        generation: Generation,
    },
    /// It could not be put on stable storage, and is not in force.
    #[error("the desired state could not be kept and is not applied: {problem}")]
    NotKept {
        /// What the host said.
        problem: String,
    },
    /// It names a VM twice.
    #[error("VM {id} is listed more than once")]
    ListedTwice {
        /// The VM.
        id: VmId,
    },
    /// With it, all sources together would come to more VMs than a host takes.
    #[error(
        "VM {id} is one too many: this host would have {count} VMs, of all sources together, and takes {VMS_MOST}"
    )]
    TooMany {
        /// The first VM that is new.
        id: VmId,
        /// How many it would have.
        count: usize,
    },
    /// A command speaks of a VM that another source has spoken of.
    #[error("VM {id} is assigned by {owner}: change it there")]
    NotLocal {
        /// The VM.
        id: VmId,
        /// Who has spoken of it.
        owner: SourceKind,
    },
    /// A command changes a VM to what cannot be used.
    #[error("VM {id} cannot be changed so: {problem}")]
    Unusable {
        /// The VM.
        id: VmId,
        /// What is wrong with it.
        problem: String,
    },
    /// A command speaks of a VM that nobody has spoken of.
    #[error("there is no VM {id} that was assigned to this host")]
    NotAssigned {
        /// The VM.
        id: VmId,
    },
}

/// Numbers `offered` and decides whether it may follow `current`, what its source has said before in the same counting.
///
/// A state without a number gets the one after the present one, or keeps the present one where nothing changed.
///
/// # Errors
/// Says why it may not.
pub fn admit(current: Option<&AssignmentSet>, offered: &AssignmentSet) -> Result<AssignmentSet, Refusal> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = offered.vms.iter().find(|vm| !seen.insert(&vm.id)) {
        return Err(Refusal::ListedTwice { id: twice.id.clone() });
    }
    let mut admitted = offered.clone();
    // VMs of entries that cannot be used stay as they are: also in what is in force.
    let untouched = current
        .into_iter()
        .flat_map(|current| &current.vms)
        .filter(|vm| offered.refused.iter().any(|entry| entry.id == vm.id) && !seen.contains(&vm.id));
    admitted.vms.extend(untouched.cloned());
    admitted.vms.sort_by(|left, right| left.id.cmp(&right.id));
    let Some(current) = current else {
        admitted.generation = Some(offered.generation.unwrap_or(Generation::new(1)));
        return Ok(admitted);
    };
    let present = current.generation.unwrap_or_default();
    let same = admitted.vms == current.vms;
    match offered.generation {
        None => admitted.generation = Some(if same { present } else { present.next() }),
        Some(offered) if offered < present => return Err(Refusal::Older { offered, current: present }),
        Some(offered) if offered == present && !same => {
            return Err(Refusal::Contradiction { generation: offered });
        }
        Some(_) => {}
    }
    Ok(admitted)
}

/// Whether all sources together may come to the VMs `after`, where they come to `before` now. Fewer are always accepted.
///
/// # Errors
/// Those are too many.
pub(super) fn admit_count(
    before: &BTreeMap<VmId, Wanted>,
    after: &BTreeMap<VmId, Wanted>,
) -> Result<(), Refusal> {
    let count = after.len();
    if count <= VMS_MOST {
        return Ok(());
    }
    match after.keys().find(|id| !before.contains_key(*id)) {
        Some(id) => Err(Refusal::TooMany { id: id.clone(), count }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use vm_model::Assignment;

    use super::super::intent::{Intent, Said};
    use super::*;

    fn set(generation: Option<u64>, names: &[&str]) -> AssignmentSet {
        let vm = |name: &&str| Assignment::new(VmId::new(name), "sha256-x=", "/nix/store/x");
        AssignmentSet {
            generation: generation.map(Generation::new),
            vms: names.iter().map(vm).collect(),
            ..AssignmentSet::default()
        }
    }

    #[test]
    fn generations_only_grow_and_never_change_their_meaning() {
        let current = admit(None, &set(Some(5), &["a"])).expect("the first is admitted");
        let refused = |offered| admit(Some(&current), &offered).expect_err("refused").to_string();
        assert_eq!(
            refused(set(Some(4), &["a"])),
            "generation 4 is older than generation 5, which is in force"
        );
        assert!(refused(set(Some(5), &["b"])).starts_with("generation 5 is in force with other VMs"));
        assert_eq!(refused(set(Some(6), &["a", "a"])), "VM a is listed more than once");
        assert!(admit(Some(&current), &set(Some(5), &["a"])).is_ok());
        assert!(admit(Some(&current), &set(Some(6), &["b"])).is_ok());
    }

    #[test]
    fn the_worker_numbers_what_comes_without_a_number() {
        let first = admit(None, &set(None, &["b", "a"])).expect("admitted");
        assert_eq!(first.generation, Some(Generation::new(1)));
        let same = admit(Some(&first), &set(None, &["a", "b"])).expect("admitted");
        assert_eq!(same.generation, first.generation, "order means nothing");
        let other = admit(Some(&first), &set(None, &["a"])).expect("admitted");
        assert_eq!(other.generation, Some(Generation::new(2)));
    }

    #[test]
    fn a_host_takes_so_many_vms_of_all_sources_together() {
        let names: Vec<String> = (0..VMS_MOST).map(|number| format!("m-{number:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = |names: &[&str]| Said { desired: set(Some(1), names), ..Said::default() };
        let both = BTreeSet::from([SourceKind::Master, SourceKind::Local]);
        let together = |intent: &Intent| intent.said_together(&both).vms;
        let full = Intent::default().with(SourceKind::Master, said(&names));
        assert_eq!(admit_count(&BTreeMap::new(), &together(&full)), Ok(()));
        let beyond = full.clone().with(SourceKind::Local, said(&["a"]));
        let refused =
            admit_count(&together(&full), &together(&beyond)).expect_err("one too many").to_string();
        assert_eq!(
            refused,
            "VM a is one too many: this host would have 4097 VMs, of all sources together, and takes 4096"
        );
        assert_eq!(
            admit_count(&together(&beyond), &together(&full)),
            Ok(()),
            "what was kept can be taken back"
        );
        let same = full.with(SourceKind::Local, said(&[names[0]]));
        assert_eq!(together(&same).len(), VMS_MOST, "a VM of two sources counts once");
    }

    #[test]
    fn the_vm_of_an_entry_that_cannot_be_used_stays_in_force() {
        let first = admit(None, &set(None, &["a", "b"])).expect("admitted");
        let refused = vec![vm_model::RefusedEntry { id: VmId::new("a"), problem: "no hash".into() }];
        let second = admit(Some(&first), &AssignmentSet { refused, ..set(None, &["b"]) }).expect("admitted");
        assert_eq!(second.vms, first.vms);
        assert_eq!(second.generation, first.generation, "nothing changed");
    }
}

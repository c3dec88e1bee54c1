//! Whether a new desired state may take the place of the present one of its source. Pure.

use std::collections::BTreeSet;

use thiserror::Error;
use vm_model::{AssignmentSet, Generation, SourceKind, VmId};

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

#[cfg(test)]
mod tests {
    use vm_model::Assignment;

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
    fn the_vm_of_an_entry_that_cannot_be_used_stays_in_force() {
        let first = admit(None, &set(None, &["a", "b"])).expect("admitted");
        let refused = vec![vm_model::RefusedEntry { id: VmId::new("a"), problem: "no hash".into() }];
        let second = admit(Some(&first), &AssignmentSet { refused, ..set(None, &["b"]) }).expect("admitted");
        assert_eq!(second.vms, first.vms);
        assert_eq!(second.generation, first.generation, "nothing changed");
    }
}

//! Whether a desired state waits for somebody's word before it takes VMs away. Pure.

use vm_model::{AssignmentSet, HeldSet, Timestamp};

/// Holds `admitted` if it is empty and `present` VMs are there: a truncated save looks like that. It is let go where it
/// says so itself.
pub(super) fn hold(admitted: &AssignmentSet, present: usize, now: Timestamp) -> Option<HeldSet> {
    // What of entries that cannot be used is in force is among them already.
    let is_held = admitted.vms.is_empty() && present > 0 && !admitted.allow_removals;
    is_held.then(|| HeldSet {
        generation: admitted.generation.unwrap_or_default(),
        since: now,
        removals: present,
        reason: format!(
            "an empty desired state would remove all {present} VMs: say \"allow_removals\": true in it, or \
             `procurator-worker allow-removals`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, RefusedEntry, VmId};

    use super::*;

    #[test]
    fn only_a_state_that_takes_every_vm_away_is_held() {
        let now = Timestamp::from_millis(0);
        let empty = AssignmentSet::default();
        assert_eq!(hold(&empty, 3, now).expect("held").removals, 3);
        assert_eq!(hold(&empty, 0, now), None, "nothing is taken away");
        let allowed = AssignmentSet { allow_removals: true, ..AssignmentSet::default() };
        assert_eq!(hold(&allowed, 3, now), None);
        let vms = vec![Assignment::new(VmId::new("a"), "", "/x")];
        assert_eq!(hold(&AssignmentSet { vms, ..AssignmentSet::default() }, 3, now), None);
        let refused = vec![RefusedEntry { id: VmId::new("a"), problem: String::new() }];
        let nothing_else = AssignmentSet { refused, ..AssignmentSet::default() };
        assert!(hold(&nothing_else, 3, now).is_some(), "it would take all VMs away as well");
    }
}

//! What an administrator of this host changes by hand, one VM at a time. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use vm_model::{Assignment, DesiredState, SourceKind, Timestamp, VmId};

use super::admit::Refusal;
use super::amend::amended;
use super::intent::{Intent, Said, Wanted};
use super::orders::Given;

/// One change by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCommand {
    /// This VM should be there.
    Assign(Assignment),
    /// This VM should be there as it is, but for some keys of its assignment. An order that holds for it goes on.
    Amend {
        /// The VM.
        vm: VmId,
        /// The keys, as RFC 7396 has them put over what is there.
        changes: Map<String, Value>,
    },
    /// This VM should be there no more.
    Remove(VmId),
    /// This VM should be in another state, whatever the source of its assignment says, until that source says something
    /// new of it. A VM that has no machine because its guest switched itself off or because it failed is started.
    Order {
        /// The VM.
        vm: VmId,
        /// The state. Where it is the one that the assignment says, an earlier order is withdrawn.
        desired: DesiredState,
        /// The numeric user id of whoever gives the order, where that is known.
        by: Option<u32>,
    },
}

impl LocalCommand {
    /// The VM it changes.
    pub(super) fn vm(&self) -> &VmId {
        match self {
            Self::Assign(assignment) => &assignment.id,
            Self::Remove(id) | Self::Order { vm: id, .. } | Self::Amend { vm: id, .. } => id,
        }
    }

    /// Whose VM the command changes, and what that makes of all words, at the moment `now`. Of a source that is not
    /// listened to any more, VMs can be removed, since it cannot do so itself.
    ///
    /// Where the VM's newest definition is refused, it goes by the one that is `in_force`; a change is then made to that one,
    /// and the refused one is dropped.
    ///
    /// # Errors
    /// Another source that is listened to has spoken of the VM, and more than its state is to change; or nobody has, and
    /// it is not to be assigned.
    pub(super) fn change(
        &self,
        intent: &Intent,
        listened_to: &BTreeSet<SourceKind>,
        in_force: Option<&Assignment>,
        now: Timestamp,
    ) -> Result<(SourceKind, Intent), Refusal> {
        let id = self.vm();
        let wanted = intent.said_together(listened_to).vms.remove(id);
        let changed = match (self, &wanted) {
            (Self::Order { desired, by, .. }, Some(wanted)) => {
                let given = Given { at: now, by: *by };
                return Ok((
                    wanted.source,
                    intent.clone().with_order(&wanted.assignment, wanted.drain, *desired, given),
                ));
            }
            // Its record is all that says where it should be.
            (Self::Order { .. }, None) if intent.unclaimed().contains(id) => {
                return Ok((SourceKind::Local, intent.clone()));
            }
            // What was said by hand and is not followed can be taken back; the VM and its order are another's.
            (Self::Remove(_), Some(Wanted { source, .. }))
                if *source != SourceKind::Local && speaks_of(intent, SourceKind::Local, id) =>
            {
                let said = said_with(intent, SourceKind::Local, id, None);
                return Ok((SourceKind::Local, intent.clone().with(SourceKind::Local, said)));
            }
            (Self::Assign(_) | Self::Amend { .. } | Self::Remove(_), Some(Wanted { source, .. }))
                if *source != SourceKind::Local && listened_to.contains(source) =>
            {
                return Err(Refusal::NotLocal { id: id.clone(), owner: *source });
            }
            (Self::Remove(_), None) if intent.unclaimed().contains(id) => {
                return Ok((SourceKind::Local, intent.clone().without_unclaimed(id)));
            }
            (Self::Amend { changes, .. }, Some(wanted)) => {
                let base = in_force.unwrap_or(&wanted.assignment);
                let base = Assignment { desired: wanted.assignment.desired, ..base.clone() };
                let amended = amended(&base, changes)?;
                let said = said_with(intent, SourceKind::Local, id, Some(&amended));
                let changed = intent.clone().with(SourceKind::Local, said).with_order_carried(&amended);
                return Ok((SourceKind::Local, changed));
            }
            (Self::Remove(_) | Self::Order { .. } | Self::Amend { .. }, None) => {
                return Err(Refusal::NotAssigned { id: id.clone() });
            }
            (Self::Remove(_), Some(wanted)) => wanted.source,
            (Self::Assign(_), _) => SourceKind::Local,
        };
        let assigned = match self {
            Self::Assign(assignment) => Some(assignment),
            Self::Amend { .. } | Self::Remove(_) | Self::Order { .. } => None,
        };
        let said = said_with(intent, changed, id, assigned);
        // Whoever assigns it anew says what is to hold, also where that is what was assigned before.
        Ok((changed, intent.clone().without_order(id).with(changed, said)))
    }
}

fn speaks_of(intent: &Intent, source: SourceKind, id: &VmId) -> bool {
    intent.of(source).is_some_and(|said| said.desired.vms.iter().any(|vm| vm.id == *id))
}

/// What `source` says of all VMs, with `assignment` in place of what it says of `id`.
fn said_with(intent: &Intent, source: SourceKind, id: &VmId, assignment: Option<&Assignment>) -> Said {
    let mut said = intent.of(source).cloned().unwrap_or_default();
    said.desired.vms.retain(|vm| vm.id != *id);
    said.desired.vms.extend(assignment.cloned());
    said.desired.vms.sort_by(|left, right| left.id.cmp(&right.id));
    if source == SourceKind::Local {
        said.desired.generation = Some(said.generation().next());
    }
    said
}

#[cfg(test)]
mod tests {
    use vm_model::{AssignmentSet, Generation};

    use super::*;

    #[test]
    fn an_order_holds_for_the_vm_as_it_is_changed() {
        let mut assigned = assignment("a");
        assigned.hash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned();
        let said = Said {
            desired: AssignmentSet { vms: vec![assigned], ..AssignmentSet::default() },
            ..Said::default()
        };
        let (now, listened_to) = (Timestamp::from_millis(7), BTreeSet::from([SourceKind::Local]));
        let vm = VmId::new("a");
        let stop = LocalCommand::Order { vm: vm.clone(), desired: DesiredState::Stopped, by: None };
        let intent = Intent::default().with(SourceKind::Local, said);
        let (_, stopped) = stop.change(&intent, &listened_to, None, now).expect("ordered");
        let Value::Object(changes) = serde_json::json!({ "overrides": { "vcpus": 3 } }) else {
            panic!("an object")
        };
        let amend = LocalCommand::Amend { vm: vm.clone(), changes };
        let (source, changed) = amend.change(&stopped, &listened_to, None, now).expect("changed");
        let wanted = changed.settled(&listened_to).merged(&listened_to).vms.remove(&vm).expect("it is there");
        assert_eq!((source, wanted.assignment.desired), (SourceKind::Local, DesiredState::Stopped));
        assert_eq!(wanted.assignment.overrides.vcpus, Some(3));
    }

    #[test]
    fn a_change_begins_with_what_is_in_force_where_the_newest_definition_is_refused() {
        let listened_to = BTreeSet::from([SourceKind::Local]);
        let refused = {
            let mut assignment = assignment("a");
            assignment.overrides.vcpus = Some(200);
            Assignment { desired: DesiredState::Paused, ..assignment }
        };
        let said = Said {
            desired: AssignmentSet { vms: vec![refused], ..AssignmentSet::default() },
            ..Said::default()
        };
        let intent = Intent::default().with(SourceKind::Local, said);
        let Value::Object(changes) = serde_json::json!({ "overrides": { "cmdline_append": "quiet" } }) else {
            panic!("an object")
        };
        let amend = LocalCommand::Amend { vm: VmId::new("a"), changes };
        let in_force = Assignment {
            hash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
            ..assignment("a")
        };
        let now = Timestamp::from_millis(7);
        let (_, changed) = amend.change(&intent, &listened_to, Some(&in_force), now).expect("changed");
        let wanted =
            changed.merged(&listened_to).vms.remove(&VmId::new("a")).expect("it is there").assignment;
        assert_eq!(
            (wanted.overrides.vcpus, wanted.overrides.cmdline_append.as_deref()),
            (None, Some("quiet"))
        );
        assert_eq!(wanted.desired, DesiredState::Paused, "where it should be is no part of a definition");
    }

    #[test]
    fn a_vm_that_nobody_is_known_to_have_spoken_of_can_be_assigned_again() {
        let listened_to = BTreeSet::from([SourceKind::Local]);
        let intent = Intent::lost([VmId::new("a"), VmId::new("b")]);
        let assign = LocalCommand::Assign(assignment("a"));
        let (_, taken) =
            assign.change(&intent, &listened_to, None, Timestamp::from_millis(7)).expect("taken");
        assert_eq!(taken.unclaimed().iter().collect::<Vec<_>>(), [&VmId::new("b")]);
        assert_eq!(taken.merged(&listened_to).owners()[&VmId::new("a")], SourceKind::Local);
    }

    #[test]
    fn what_was_said_by_hand_and_is_not_followed_can_be_taken_back() {
        use SourceKind::{Local, Master};
        let intent = Intent::default().with(Master, said(&["a"])).with(Local, said(&["a", "b"]));
        let listened_to = BTreeSet::from([Master, Local]);
        let remove = LocalCommand::Remove(VmId::new("a"));
        let (source, changed) =
            remove.change(&intent, &listened_to, None, Timestamp::from_millis(7)).expect("taken");
        assert_eq!(source, Local);
        assert_eq!(changed.merged(&listened_to).owners()[&VmId::new("a")], Master, "the master's stays");
        assert!(changed.merged(&listened_to).outranked.is_empty());
        let again = remove.change(&changed, &listened_to, None, Timestamp::from_millis(8));
        assert_eq!(again.map(|_| ()), Err(Refusal::NotLocal { id: VmId::new("a"), owner: Master }));
    }

    fn assignment(name: &str) -> Assignment {
        Assignment::new(VmId::new(name), "sha256-x=", "/nix/store/x")
    }

    fn said(names: &[&str]) -> Said {
        let mut said = Said::default();
        said.desired.vms = names.iter().map(|name| assignment(name)).collect();
        said
    }

    #[test]
    fn commands_change_what_no_other_source_can() {
        use SourceKind::{File, Local};
        let intent = Intent::default().with(File, said(&["f"])).with(Local, said(&["l"]));
        let both = BTreeSet::from([File, Local]);
        let change = |command: LocalCommand, listened_to: &BTreeSet<_>| {
            let (source, changed) = command.change(&intent, listened_to, None, Timestamp::from_millis(7))?;
            let said = changed.of(source).cloned().unwrap_or_default();
            let names: Vec<String> = said.desired.vms.iter().map(|vm| vm.id.to_string()).collect();
            Ok((source, names.join(" "), said.generation()))
        };
        let assign = |name: &str| LocalCommand::Assign(assignment(name));
        let remove = |name: &str| LocalCommand::Remove(VmId::new(name));
        let stop = |name: &str| LocalCommand::Order {
            vm: VmId::new(name),
            desired: DesiredState::Stopped,
            by: None,
        };
        let first = Generation::new(1);
        assert_eq!(change(assign("a"), &both), Ok((Local, "a l".to_owned(), first)));
        assert_eq!(change(remove("l"), &both), Ok((Local, String::new(), first)));
        let refused = Refusal::NotLocal { id: VmId::new("f"), owner: File };
        assert_eq!(change(assign("f"), &both), Err(refused.clone()));
        assert_eq!(change(remove("f"), &both), Err(refused));
        assert_eq!(change(remove("x"), &both), Err(Refusal::NotAssigned { id: VmId::new("x") }));
        assert_eq!(change(stop("x"), &both), Err(Refusal::NotAssigned { id: VmId::new("x") }));
        assert_eq!(change(stop("f"), &both), Ok((File, "f".to_owned(), Generation::default())));
        let amend = |name: &str| LocalCommand::Amend { vm: VmId::new(name), changes: Map::new() };
        let refused = Refusal::NotLocal { id: VmId::new("f"), owner: File };
        assert_eq!(change(amend("f"), &both), Err(refused));
        assert_eq!(change(amend("x"), &both), Err(Refusal::NotAssigned { id: VmId::new("x") }));
        let without_file = BTreeSet::from([Local]);
        assert_eq!(change(remove("f"), &without_file), Ok((File, String::new(), Generation::default())));
    }
}

//! What an administrator of this host changes by hand, one VM at a time. Pure.

use std::collections::BTreeSet;

use vm_model::{Assignment, SourceKind, VmId};

use super::admit::Refusal;
use super::intent::Intent;

/// One change by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCommand {
    /// This VM should be there.
    Assign(Assignment),
    /// This VM should be there no more.
    Remove(VmId),
}

impl LocalCommand {
    /// The VM it changes.
    pub(super) fn vm(&self) -> &VmId {
        match self {
            Self::Assign(assignment) => &assignment.id,
            Self::Remove(id) => id,
        }
    }

    /// Whose word the command changes, and what that makes of all words. Of a source that is not listened to any more, VMs can be removed,
    /// since it cannot do so itself.
    ///
    /// # Errors
    /// Another source has spoken of the VM, which is listened to; or nobody has, and it is to be removed.
    pub(super) fn change(
        &self,
        intent: &Intent,
        listened_to: &BTreeSet<SourceKind>,
    ) -> Result<(SourceKind, Intent), Refusal> {
        let id = self.vm();
        let owner = intent.merged(listened_to).vms.get(id).map(|wanted| wanted.source);
        let changed = match (self, owner) {
            (_, Some(owner)) if owner != SourceKind::Local && listened_to.contains(&owner) => {
                return Err(Refusal::NotLocal { id: id.clone(), owner });
            }
            (Self::Remove(_), None) if intent.unclaimed().contains(id) => {
                return Ok((SourceKind::Local, intent.clone().without_unclaimed(id)));
            }
            (Self::Remove(_), None) => return Err(Refusal::NotAssigned { id: id.clone() }),
            (Self::Remove(_), Some(owner)) => owner,
            (Self::Assign(_), _) => SourceKind::Local,
        };
        let mut said = intent.of(changed).cloned().unwrap_or_default();
        said.desired.vms.retain(|vm| vm.id != *id);
        if let Self::Assign(assignment) = self {
            said.desired.vms.push(assignment.clone());
            said.desired.vms.sort_by(|left, right| left.id.cmp(&right.id));
        }
        if changed == SourceKind::Local {
            said.desired.generation = Some(said.generation().next());
        }
        Ok((changed, intent.clone().with(changed, said)))
    }
}

#[cfg(test)]
mod tests {
    use vm_model::Generation;

    use super::super::intent::Said;
    use super::*;

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
            let (source, changed) = command.change(&intent, listened_to)?;
            let said = changed.of(source).cloned().unwrap_or_default();
            let names: Vec<String> = said.desired.vms.iter().map(|vm| vm.id.to_string()).collect();
            Ok((source, names.join(" "), said.generation()))
        };
        let assign = |name: &str| LocalCommand::Assign(assignment(name));
        let remove = |name: &str| LocalCommand::Remove(VmId::new(name));
        let first = Generation::new(1);
        assert_eq!(change(assign("a"), &both), Ok((Local, "a l".to_owned(), first)));
        assert_eq!(change(remove("l"), &both), Ok((Local, String::new(), first)));
        let refused = Refusal::NotLocal { id: VmId::new("f"), owner: File };
        assert_eq!(change(assign("f"), &both), Err(refused.clone()));
        assert_eq!(change(remove("f"), &both), Err(refused));
        assert_eq!(change(remove("x"), &both), Err(Refusal::NotAssigned { id: VmId::new("x") }));
        let without_file = BTreeSet::from([Local]);
        assert_eq!(change(remove("f"), &without_file), Ok((File, String::new(), Generation::default())));
    }
}

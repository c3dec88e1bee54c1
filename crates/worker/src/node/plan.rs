//! From what should run and what is there to what must change. Pure: a plan is a value that a test, a dry run
//! and a log line can show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vm_model::{Assignment, AssignmentSet, DesiredState, PortForward, VmId};

use crate::capacity::Demand;
use crate::definition::{Change, Description, Effect, effect, is_same_definition};
use crate::volumes::in_words;

/// What is there: every VM this host has.
pub type Observed = BTreeMap<VmId, ObservedVm>;

/// A VM of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVm {
    /// As it was defined last, with the state it is meant to be in.
    pub assignment: Assignment,
    /// Whether it is off because something went wrong that may be better at another try.
    pub can_retry_help: bool,
    /// What its newest machine is; absent before there was one under this worker.
    pub description: Option<Arc<Description>>,
    /// The ports of the host that lead to its newest machine; absent where that is not known.
    pub forwards: Option<Vec<PortForward>>,
    /// Whether that machine is of an earlier definition, and the newest is still to come into force.
    pub is_changing: bool,
    /// What of the host is promised to its machine; absent where that is not known.
    pub(crate) promised: Option<Demand>,
}

/// What a changed definition makes of its VM, as far as its artifact tells without being verified; or why it cannot be used.
pub type Described = BTreeMap<VmId, Result<NewDescription, String>>;

/// What a changed definition makes of its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDescription {
    /// The machine and its disks.
    pub description: Arc<Description>,
    /// What becomes of its disks, in words.
    pub disks: String,
    /// Its disks to which a guest wrote what would be given up, although no image changed.
    pub loses: Vec<String>,
    /// Why its VM is not stopped for it, if that runs: a disk is asked to shrink.
    pub shrinks: Option<String>,
}

/// One change. Each concerns one VM and can be carried out without regard to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A VM that is not there yet.
    Create(Assignment),
    /// A VM whose definition changed.
    Redefine(Assignment, Redefinition),
    /// A VM that stays what it is and should be in another state.
    Move(VmId, DesiredState),
    /// A VM that failed, for a reason that may be gone by now, and is asked for again.
    Retry(VmId),
    /// A VM that should be no more.
    Remove(VmId, Disks),
}

/// What becomes of the writable disks of a VM that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disks {
    /// Their names; not known of a VM that had no machine under this worker.
    pub names: Option<Vec<String>>,
    /// How long they are kept.
    pub kept: Duration,
}

/// What another definition does to its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redefinition {
    /// It says the same in other words: the machine goes on.
    SameMachine,
    /// What changes holds at once: the machine goes on.
    Live(Vec<Change>),
    /// The machine is stopped and another one started, once that one has been verified and made ready.
    Restart {
        /// In what they differ.
        changes: Vec<Change>,
        /// What becomes of the disks.
        disks: String,
        /// The disks to which its guest wrote what is given up by that, because their policy changes or they are left out.
        loses: Vec<String>,
    },
    /// That is found out when it is made ready. The VM stays as it is until then.
    Unknown,
    /// It cannot be used: the VM stays as it is.
    Refused(String),
}

impl Action {
    /// The VM it concerns.
    pub fn vm(&self) -> &VmId {
        match self {
            Self::Create(assignment) | Self::Redefine(assignment, _) => &assignment.id,
            Self::Move(id, _) | Self::Retry(id) | Self::Remove(id, _) => id,
        }
    }
}

impl Action {
    /// Whether it replaces the machine of a VM whose definition changes; `None` where that is not known, or nothing changes.
    pub fn restarts(&self) -> Option<bool> {
        match self {
            Self::Redefine(_, Redefinition::Restart { .. }) => Some(true),
            Self::Redefine(
                _,
                Redefinition::SameMachine | Redefinition::Live(_) | Redefinition::Refused(_),
            ) => Some(false),
            Self::Redefine(_, Redefinition::Unknown)
            | Self::Create(_)
            | Self::Move(..)
            | Self::Retry(_)
            | Self::Remove(..) => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(assignment) => write!(formatter, "create {}", assignment.id),
            Self::Redefine(assignment, what) => {
                let id = &assignment.id;
                match what {
                    Redefinition::SameMachine => {
                        write!(formatter, "keep {id}: it is the same machine in other words")
                    }
                    Redefinition::Live(changes) => {
                        write!(formatter, "change {id} while it runs: {}", words(changes))
                    }
                    Redefinition::Restart { changes, disks, loses: _ } => {
                        write!(formatter, "restart {id}: {} ({disks})", words(changes))?;
                        let is_other_content = |change: &Change| matches!(change, Change::Artifact { .. });
                        if changes.iter().any(is_other_content) {
                            formatter.write_str(", once the image has been verified")?;
                        }
                        Ok(())
                    }
                    Redefinition::Unknown => {
                        write!(formatter, "change {id}, once its artifact has been read")
                    }
                    Redefinition::Refused(problem) => {
                        write!(formatter, "keep {id} as it is: its new definition cannot be used: {problem}")
                    }
                }
            }
            Self::Move(id, DesiredState::Running) => write!(formatter, "run {id}"),
            Self::Move(id, DesiredState::Paused) => write!(formatter, "pause {id}"),
            Self::Move(id, DesiredState::Stopped) => write!(formatter, "stop {id}"),
            Self::Retry(id) => write!(formatter, "try {id} again"),
            Self::Remove(id, disks) => {
                write!(formatter, "remove {id}")?;
                disks.tell(id, formatter)
            }
        }
    }
}

impl Disks {
    fn tell(&self, id: &VmId, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.names.as_deref() {
            Some([]) => return Ok(()),
            Some([disk]) => format!("volume {id}/{disk}"),
            Some(disks) => {
                let names: Vec<String> = disks.iter().map(|disk| format!("{id}/{disk}")).collect();
                format!("volumes {}", names.join(", "))
            }
            None => "its volumes".to_owned(),
        };
        match self.kept {
            Duration::ZERO => write!(formatter, ", delete {what} at once"),
            kept => write!(formatter, ", delete {what} after {} or when space runs out", in_words(kept)),
        }
    }
}

fn words(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The VMs whose definition is another than the one in force: what [`plan`] wants described, and what tells which ports of the
/// host are about to pass from one to another.
pub fn redefined<'a>(desired: &'a AssignmentSet, observed: &Observed) -> Vec<&'a Assignment> {
    let is_redefined = |wanted: &&Assignment| {
        observed.get(&wanted.id).is_some_and(|present| present.is_redefined_by(wanted))
    };
    desired.vms.iter().filter(is_redefined).collect()
}

impl ObservedVm {
    /// Whether another definition is in force than that of `wanted`.
    pub(super) fn is_redefined_by(&self, wanted: &Assignment) -> bool {
        self.is_changing || !is_same_definition(&self.assignment, wanted)
    }
}

/// All changes that lead from what is there to what should be; empty where nothing is to be done.
///
/// Removals come first, so that what they free is there for creations; within a kind, VMs are in order of their
/// ids. `desired` has each id at most once (see [`super::admit`]); VMs of entries that were refused stay as they are.
/// Volumes of removed VMs are `kept` for so long.
pub fn plan(
    desired: &AssignmentSet,
    observed: &Observed,
    described: &Described,
    kept: Duration,
) -> Vec<Action> {
    let wanted: BTreeMap<&VmId, &Assignment> = desired.vms.iter().map(|vm| (&vm.id, vm)).collect();
    let untouched: BTreeSet<&VmId> = desired.refused.iter().map(|entry| &entry.id).collect();
    let surplus = observed.iter().filter(|(id, _)| !wanted.contains_key(id) && !untouched.contains(id));
    let removals = surplus.map(|(id, vm)| {
        let names = vm.description.as_ref().map(|description| description.writable_disks());
        Action::Remove(id.clone(), Disks { names, kept })
    });
    let changes = wanted.iter().filter(|(id, _)| !untouched.contains(*id)).flat_map(|(id, &wanted)| {
        let Some(present) = observed.get(*id) else { return vec![Action::Create(wanted.clone())] };
        if !is_same_definition(&present.assignment, wanted) {
            let what = redefinition(present, described.get(*id));
            return vec![Action::Redefine(wanted.clone(), what)];
        }
        // Hashes that vouch for more take no action by a machine. They come first: a VM may be tried again because of them.
        let is_other = present.assignment.references != wanted.references;
        let reworded = is_other.then(|| Action::Redefine(wanted.clone(), Redefinition::SameMachine));
        reworded.into_iter().chain(other_state(present, wanted)).collect()
    });
    removals.chain(changes).collect()
}

/// What brings a VM that stays what it is to where it should be.
fn other_state(present: &ObservedVm, wanted: &Assignment) -> Option<Action> {
    if present.assignment.desired != wanted.desired {
        return Some(Action::Move(wanted.id.clone(), wanted.desired));
    }
    let is_retried = present.can_retry_help && wanted.desired != DesiredState::Stopped;
    is_retried.then(|| Action::Retry(wanted.id.clone()))
}

fn redefinition(present: &ObservedVm, described: Option<&Result<NewDescription, String>>) -> Redefinition {
    match (described, &present.description) {
        (Some(Err(problem)), _) => Redefinition::Refused(problem.clone()),
        (Some(Ok(NewDescription { shrinks: Some(problem), .. })), Some(_))
            if present.assignment.desired != DesiredState::Stopped =>
        {
            Redefinition::Refused(problem.clone())
        }
        (Some(Ok(new)), Some(before)) => {
            let changes = Change::between(before, &new.description);
            match effect(&changes) {
                Effect::Nothing => Redefinition::SameMachine,
                Effect::Live => Redefinition::Live(changes),
                Effect::Restart => {
                    let (disks, loses) = (new.disks.clone(), new.loses.clone());
                    Redefinition::Restart { changes, disks, loses }
                }
            }
        }
        (Some(Ok(_)) | None, _) => Redefinition::Unknown,
    }
}

#[cfg(test)]
mod tests;

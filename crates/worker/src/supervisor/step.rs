//! What a supervisor does next, as a pure function of where its VM is and where it should be.
//!
//! ```text
//!               Boot                        (machine ended)
//!   Off ──────────────────→ Up ──────────────────────────────→ Off | PoweredOff | Failed | Waiting
//!    ↑  ←──────────────────┘ ↺ Pause / Resume                                               │
//!    └──────────────── Stop  ↺ Prepare: another definition,            Boot when due ←──────┘
//!                              Stop only when it is Ready
//! ```

use std::time::Instant;

use vm_model::DesiredState;

/// Counts the times a VM was asked to start afresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(u64);

/// Counts what a VM was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderNumber(u64);

/// Counts a VM's definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DefinitionNumber(u64);

/// What was asked of a VM last. What happened under an older stamp does not keep it from starting under a newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) revision: Revision,
    pub(crate) definition: DefinitionNumber,
}

impl Revision {
    /// The revision after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl OrderNumber {
    /// The order after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl DefinitionNumber {
    /// The definition after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Where a VM should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// In this state.
    Be(DesiredState),
    /// Without a machine until there is another goal; what was wished for before stays on record.
    Suspended,
    /// Gone. Volumes that hold data are kept for a while.
    Gone,
}

impl Goal {
    /// How it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Be(desired) => desired.name(),
            Self::Suspended => "stopped",
            Self::Gone => "removed",
        }
    }
}

/// What is known of the newest definition while the VM runs by an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// Nothing yet.
    Unknown,
    /// Its machine is being made ready.
    Pending,
    /// Its machine can take the place of the one that runs.
    Ready,
    /// It cannot be used.
    Refused {
        /// When it is tried again, where that can help.
        retry: Option<Instant>,
    },
}

/// Where a VM is. `M` is what it holds while it has a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunState<M> {
    /// No machine, and nothing that speaks against starting one.
    Off,
    /// No machine: the guest switched itself off.
    PoweredOff {
        /// Under what.
        stamp: Stamp,
    },
    /// No machine: it failed.
    Failed {
        /// Under what.
        stamp: Stamp,
    },
    /// No machine until its next start.
    Waiting {
        /// Under what the run before was started.
        stamp: Stamp,
        /// When the next start is due.
        until: Instant,
    },
    /// A machine, running or paused.
    Up {
        /// Under what it was started.
        stamp: Stamp,
        /// The definition it was made by: an older one than the stamp's where that one cannot be used.
        runs: DefinitionNumber,
        /// Whether its vCPUs run.
        vcpus: Vcpus,
        /// The machine.
        machine: M,
    },
}

/// What a machine's vCPUs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vcpus {
    /// They execute the guest.
    Running,
    /// They are parked.
    Parked,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until the goal or the machine changes.
    Rest,
    /// Nothing, until then or until the goal changes.
    RestUntil(Instant),
    /// Build and start a machine, with its vCPUs doing this.
    Boot(Vcpus),
    /// Make the newest definition's machine ready, while the one before runs.
    Prepare,
    /// Stop the machine.
    Stop,
    /// Park the vCPUs.
    Pause,
    /// Let the vCPUs run.
    Resume,
    /// Forget why there is no machine: off is where it should be.
    Settle,
    /// Remove the VM.
    Remove,
}

/// Decides the next step at `now` for a VM that is at `state`, of which `stamp` was asked last.
pub(crate) fn next_step<M>(
    state: &RunState<M>,
    goal: Goal,
    stamp: Stamp,
    candidate: Candidate,
    now: Instant,
) -> Step {
    match (goal, state) {
        (Goal::Gone | Goal::Suspended | Goal::Be(DesiredState::Stopped), RunState::Up { .. }) => Step::Stop,
        (Goal::Gone, _) => Step::Remove,
        (Goal::Suspended, RunState::Waiting { .. }) => Step::Settle,
        (Goal::Suspended, RunState::Off | RunState::PoweredOff { .. } | RunState::Failed { .. }) => {
            Step::Rest
        }
        (Goal::Be(DesiredState::Stopped), RunState::Off) => Step::Rest,
        (
            Goal::Be(DesiredState::Stopped),
            RunState::Waiting { .. } | RunState::PoweredOff { .. } | RunState::Failed { .. },
        ) => Step::Settle,
        (Goal::Be(DesiredState::Running), _) => step_towards(Vcpus::Running, state, stamp, candidate, now),
        (Goal::Be(DesiredState::Paused), _) => step_towards(Vcpus::Parked, state, stamp, candidate, now),
    }
}

/// Decides the next step of a VM that should have a machine whose vCPUs do this.
fn step_towards<M>(
    vcpus: Vcpus,
    state: &RunState<M>,
    stamp: Stamp,
    candidate: Candidate,
    now: Instant,
) -> Step {
    match state {
        RunState::Off => Step::Boot(vcpus),
        RunState::PoweredOff { stamp: then } | RunState::Failed { stamp: then } => {
            if *then == stamp {
                Step::Rest
            } else {
                Step::Boot(vcpus)
            }
        }
        RunState::Waiting { stamp: then, until } => {
            if *then != stamp || *until <= now {
                Step::Boot(vcpus)
            } else {
                Step::RestUntil(*until)
            }
        }
        RunState::Up { stamp: then, .. } if then.revision != stamp.revision => Step::Stop,
        RunState::Up { runs, vcpus: current, .. } => {
            let parking = match (current, vcpus) {
                (Vcpus::Running, Vcpus::Parked) => Some(Step::Pause),
                (Vcpus::Parked, Vcpus::Running) => Some(Step::Resume),
                (Vcpus::Running, Vcpus::Running) | (Vcpus::Parked, Vcpus::Parked) => None,
            };
            if *runs == stamp.definition {
                return parking.unwrap_or(Step::Rest);
            }
            match candidate {
                Candidate::Unknown => Step::Prepare,
                Candidate::Ready => Step::Stop,
                Candidate::Pending | Candidate::Refused { retry: None } => parking.unwrap_or(Step::Rest),
                Candidate::Refused { retry: Some(due) } if due <= now => Step::Prepare,
                Candidate::Refused { retry: Some(due) } => parking.unwrap_or(Step::RestUntil(due)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world_tests;

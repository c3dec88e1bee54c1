//! What a supervisor does next, as a pure function of where its VM is and where it should be.
//!
//! ```text
//!               Boot                        (machine ended)
//!   Off ──────────────────→ Up ──────────────────────────────→ Off | Waiting
//!    ↑  ←──────────────────┘ ↺ Pause / Resume                        │
//!    └──────────────── Stop                     Boot when due ←──────┘
//! ```

use std::time::Instant;

use vm_model::DesiredState;

/// Counts the times a VM was defined anew or asked to start afresh. What happened under an older revision does
/// not keep the VM from starting under a newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(u64);

impl Revision {
    /// The revision after this one.
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
    /// Gone, with everything that belonged to it.
    Gone(Addresses),
}

/// What happens to the addresses of a VM that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// They are free for others.
    Release,
    /// A VM of the same name follows and gets them.
    Keep,
}

/// Where a VM is. `M` is what it holds while it has a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing<M> {
    /// No machine, and nothing that speaks against starting one.
    Off,
    /// No machine: the guest switched itself off.
    PoweredOff {
        /// When.
        revision: Revision,
    },
    /// No machine: it failed.
    Failed {
        /// When.
        revision: Revision,
    },
    /// No machine until its next start.
    Waiting {
        /// When the run before was started.
        revision: Revision,
        /// When the next start is due.
        until: Instant,
    },
    /// A machine, running or paused.
    Up {
        /// What it was built from.
        revision: Revision,
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
    /// Stop the machine.
    Stop,
    /// Park the vCPUs.
    Pause,
    /// Let the vCPUs run.
    Resume,
    /// Forget why there is no machine: off is where it should be.
    Settle,
    /// Remove everything that belongs to the VM.
    Remove(Addresses),
}

/// Decides the next step at `now` for a VM that is at `standing` and whose newest revision is `revision`.
pub(crate) fn next_step<M>(standing: &Standing<M>, goal: Goal, revision: Revision, now: Instant) -> Step {
    match (goal, standing) {
        (Goal::Gone(_) | Goal::Suspended | Goal::Be(DesiredState::Stopped), Standing::Up { .. }) => {
            Step::Stop
        }
        (Goal::Gone(addresses), _) => Step::Remove(addresses),
        (Goal::Suspended, Standing::Waiting { .. }) => Step::Settle,
        (Goal::Suspended, Standing::Off | Standing::PoweredOff { .. } | Standing::Failed { .. }) => {
            Step::Rest
        }
        (Goal::Be(DesiredState::Stopped), Standing::Off) => Step::Rest,
        (
            Goal::Be(DesiredState::Stopped),
            Standing::Waiting { .. } | Standing::PoweredOff { .. } | Standing::Failed { .. },
        ) => Step::Settle,
        (Goal::Be(DesiredState::Running), _) => step_towards(Vcpus::Running, standing, revision, now),
        (Goal::Be(DesiredState::Paused), _) => step_towards(Vcpus::Parked, standing, revision, now),
    }
}

/// Decides the next step of a VM that should have a machine whose vCPUs do this.
fn step_towards<M>(vcpus: Vcpus, standing: &Standing<M>, revision: Revision, now: Instant) -> Step {
    match standing {
        Standing::Off => Step::Boot(vcpus),
        Standing::PoweredOff { revision: then } | Standing::Failed { revision: then, .. } => {
            if *then == revision { Step::Rest } else { Step::Boot(vcpus) }
        }
        Standing::Waiting { revision: then, until } => {
            if *then != revision || *until <= now {
                Step::Boot(vcpus)
            } else {
                Step::RestUntil(*until)
            }
        }
        Standing::Up { revision: then, .. } if *then != revision => Step::Stop,
        Standing::Up { vcpus: current, .. } => match (current, vcpus) {
            (Vcpus::Running, Vcpus::Parked) => Step::Pause,
            (Vcpus::Parked, Vcpus::Running) => Step::Resume,
            (Vcpus::Running, Vcpus::Running) | (Vcpus::Parked, Vcpus::Parked) => Step::Rest,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn any_standing(now: Instant) -> impl Strategy<Value = Standing<()>> {
        prop_oneof![
            Just(Standing::Off),
            (0_u64..3).prop_map(|n| Standing::PoweredOff { revision: Revision(n) }),
            (0_u64..3).prop_map(|n| Standing::Failed { revision: Revision(n) }),
            (0_u64..3, 0_u64..20).prop_map(move |(n, seconds)| Standing::Waiting {
                revision: Revision(n),
                until: now + Duration::from_secs(seconds)
            }),
            (0_u64..3, any::<bool>()).prop_map(|(n, parked)| Standing::Up {
                revision: Revision(n),
                vcpus: if parked { Vcpus::Parked } else { Vcpus::Running },
                machine: (),
            }),
        ]
    }

    fn any_goal() -> impl Strategy<Value = Goal> {
        prop_oneof![
            Just(Goal::Gone(Addresses::Release)),
            Just(Goal::Gone(Addresses::Keep)),
            Just(Goal::Suspended),
            Just(Goal::Be(DesiredState::Running)),
            Just(Goal::Be(DesiredState::Paused)),
            Just(Goal::Be(DesiredState::Stopped)),
        ]
    }

    /// What becomes of a VM when the step goes well.
    fn carried_out(step: Step, standing: Standing<()>, revision: Revision) -> Option<Standing<()>> {
        match step {
            Step::Rest | Step::RestUntil(_) => Some(standing),
            Step::Boot(vcpus) => Some(Standing::Up { revision, vcpus, machine: () }),
            Step::Stop | Step::Settle => Some(Standing::Off),
            Step::Pause => Some(Standing::Up { revision, vcpus: Vcpus::Parked, machine: () }),
            Step::Resume => Some(Standing::Up { revision, vcpus: Vcpus::Running, machine: () }),
            Step::Remove(_) => None,
        }
    }

    #[test]
    fn a_guest_that_switched_itself_off_stays_off_until_a_new_revision() {
        let standing = Standing::<()>::PoweredOff { revision: Revision(1) };
        let goal = Goal::Be(DesiredState::Running);
        assert_eq!(next_step(&standing, goal, Revision(1), Instant::now()), Step::Rest);
        assert_eq!(next_step(&standing, goal, Revision(2), Instant::now()), Step::Boot(Vcpus::Running));
    }

    #[test]
    fn being_told_to_stop_lets_a_vm_start_again_and_a_suspension_does_not() {
        let (revision, now) = (Revision::default(), Instant::now());
        for standing in [Standing::<()>::PoweredOff { revision }, Standing::Failed { revision }] {
            assert_eq!(next_step(&standing, Goal::Be(DesiredState::Stopped), revision, now), Step::Settle);
            assert_eq!(next_step(&standing, Goal::Suspended, revision, now), Step::Rest);
        }
    }

    #[test]
    fn a_changed_definition_stops_the_machine_before_it_starts_the_new_one() {
        let standing = Standing::Up { revision: Revision(1), vcpus: Vcpus::Running, machine: () };
        assert_eq!(
            next_step(&standing, Goal::Be(DesiredState::Running), Revision(2), Instant::now()),
            Step::Stop
        );
    }

    proptest! {
        #[test]
        fn steps_that_go_well_reach_the_goal_and_rest_there(
            standing in any_standing(Instant::now()), goal in any_goal(), revision in 0_u64..3, later in 0_u64..40,
        ) {
            let (now, revision) = (Instant::now() + Duration::from_secs(later), Revision(revision));
            let mut current = Some(standing);
            for _ in 0..4 {
                let Some(standing) = current.take() else { break };
                let step = next_step(&standing, goal, revision, now);
                if let Step::RestUntil(until) = step {
                    prop_assert!(until > now);
                }
                current = carried_out(step, standing, revision);
            }
            match (goal, &current) {
                (Goal::Gone(_), gone) => prop_assert!(gone.is_none()),
                (Goal::Be(_) | Goal::Suspended, None) => prop_assert!(false, "removed without being asked"),
                (Goal::Be(DesiredState::Stopped), Some(standing)) => prop_assert_eq!(standing, &Standing::Off),
                (Goal::Suspended, Some(standing)) => {
                    prop_assert!(!matches!(standing, Standing::Up { .. } | Standing::Waiting { .. }), "{standing:?}");
                }
                (Goal::Be(_), Some(standing)) => {
                    let step = next_step(standing, goal, revision, now);
                    prop_assert!(matches!(step, Step::Rest | Step::RestUntil(_)), "{standing:?} still wants {step:?}");
                }
            }
        }
    }
}

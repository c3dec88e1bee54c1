//! Steps that go well lead to the goal from every state, and never take away what nothing can replace.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn stamp(revision: u64, definition: u64) -> Stamp {
    Stamp { revision: Revision(revision), definition: DefinitionNumber(definition) }
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (0_u64..3, 0_u64..3).prop_map(|(revision, definition)| stamp(revision, definition))
}

fn any_state(now: Instant) -> impl Strategy<Value = RunState<()>> {
    prop_oneof![
        Just(RunState::Off),
        any_stamp().prop_map(|stamp| RunState::PoweredOff { stamp }),
        any_stamp().prop_map(|stamp| RunState::Failed { stamp }),
        (any_stamp(), 0_u64..20).prop_map(move |(stamp, seconds)| RunState::Waiting {
            stamp,
            until: now + Duration::from_secs(seconds)
        }),
        (any_stamp(), 0_u64..3, any::<bool>()).prop_map(|(stamp, runs, parked)| RunState::Up {
            stamp,
            runs: DefinitionNumber(runs),
            vcpus: if parked { Vcpus::Parked } else { Vcpus::Running },
            machine: (),
        }),
    ]
}

fn any_goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        Just(Goal::Gone),
        Just(Goal::Suspended),
        Just(Goal::Be(DesiredState::Running)),
        Just(Goal::Be(DesiredState::Paused)),
        Just(Goal::Be(DesiredState::Stopped)),
    ]
}

fn any_candidate(now: Instant) -> impl Strategy<Value = Candidate> {
    let retry = prop::option::of((0_u64..20).prop_map(move |seconds| now + Duration::from_secs(seconds)));
    prop_oneof![
        Just(Candidate::Unknown),
        Just(Candidate::Pending),
        Just(Candidate::Ready),
        retry.prop_map(|retry| Candidate::Refused { retry }),
    ]
}

fn up(stamp: Stamp, runs: u64) -> RunState<()> {
    RunState::Up { stamp, runs: DefinitionNumber(runs), vcpus: Vcpus::Running, machine: () }
}

/// What becomes of a VM when the step goes well.
fn carried_out(
    step: Step,
    state: RunState<()>,
    candidate: Candidate,
    stamp: Stamp,
) -> (Option<RunState<()>>, Candidate) {
    match step {
        Step::Rest | Step::RestUntil(_) => (Some(state), candidate),
        Step::Boot(vcpus) => {
            let runs = stamp.definition;
            (Some(RunState::Up { stamp, runs, vcpus, machine: () }), Candidate::Unknown)
        }
        Step::Prepare => (Some(state), Candidate::Ready),
        Step::Stop | Step::Settle => (Some(RunState::Off), candidate),
        Step::Pause | Step::Resume => match state {
            RunState::Up { stamp, runs, .. } => {
                let vcpus = if step == Step::Pause { Vcpus::Parked } else { Vcpus::Running };
                (Some(RunState::Up { stamp, runs, vcpus, machine: () }), candidate)
            }
            other => panic!("{step:?} at {other:?}"),
        },
        Step::Remove => (None, candidate),
    }
}

#[test]
fn a_guest_that_switched_itself_off_stays_off_until_something_new_is_asked() {
    let state = RunState::<()>::PoweredOff { stamp: stamp(1, 1) };
    let step =
        |stamp| next_step(&state, Goal::Be(DesiredState::Running), stamp, Candidate::Unknown, Instant::now());
    assert_eq!(step(stamp(1, 1)), Step::Rest);
    assert_eq!(step(stamp(2, 1)), Step::Boot(Vcpus::Running));
    assert_eq!(step(stamp(1, 2)), Step::Boot(Vcpus::Running));
}

#[test]
fn a_vm_that_waits_for_its_next_start_starts_at_once_when_something_new_is_asked() {
    let now = Instant::now();
    let until = now + Duration::from_secs(60);
    let state = RunState::<()>::Waiting { stamp: stamp(1, 1), until };
    let step =
        |stamp, now| next_step(&state, Goal::Be(DesiredState::Running), stamp, Candidate::Unknown, now);
    assert_eq!(step(stamp(1, 1), now), Step::RestUntil(until));
    assert_eq!(step(stamp(1, 1), until), Step::Boot(Vcpus::Running));
    assert_eq!(step(stamp(1, 2), now), Step::Boot(Vcpus::Running));
    assert_eq!(step(stamp(2, 1), now), Step::Boot(Vcpus::Running));
}

#[test]
fn being_told_to_stop_lets_a_vm_start_again_and_a_suspension_does_not() {
    let (stamp, now, candidate) = (Stamp::default(), Instant::now(), Candidate::Unknown);
    for state in [RunState::<()>::PoweredOff { stamp }, RunState::Failed { stamp }] {
        let step = |goal| next_step(&state, goal, stamp, candidate, now);
        assert_eq!(step(Goal::Be(DesiredState::Stopped)), Step::Settle);
        assert_eq!(step(Goal::Suspended), Step::Rest);
    }
}

#[test]
fn a_machine_runs_on_until_another_one_can_take_its_place() {
    let (state, now) = (up(stamp(0, 1), 1), Instant::now());
    let later = now + Duration::from_secs(5);
    for (candidate, step) in [
        (Candidate::Unknown, Step::Prepare),
        (Candidate::Pending, Step::Rest),
        (Candidate::Ready, Step::Stop),
        (Candidate::Refused { retry: None }, Step::Rest),
        (Candidate::Refused { retry: Some(later) }, Step::RestUntil(later)),
        (Candidate::Refused { retry: Some(now) }, Step::Prepare),
    ] {
        let decided = next_step(&state, Goal::Be(DesiredState::Running), stamp(0, 2), candidate, now);
        assert_eq!(decided, step, "{candidate:?}");
    }
    let paused = |candidate| next_step(&state, Goal::Be(DesiredState::Paused), stamp(0, 2), candidate, now);
    assert_eq!(paused(Candidate::Refused { retry: None }), Step::Pause, "what is in force obeys");
}

proptest! {
    #[test]
    fn steps_that_go_well_reach_the_goal_and_rest_there(
        state in any_state(Instant::now()), goal in any_goal(), stamp in any_stamp(), later in 0_u64..40,
    ) {
        let now = Instant::now() + Duration::from_secs(later);
        let (mut current, mut candidate) = (Some(state), Candidate::Unknown);
        for _ in 0..6 {
            let Some(state) = current.take() else { break };
            let step = next_step(&state, goal, stamp, candidate, now);
            if let Step::RestUntil(until) = step {
                prop_assert!(until > now);
            }
            (current, candidate) = carried_out(step, state, candidate, stamp);
        }
        match (goal, &current) {
            (Goal::Gone, gone) => prop_assert!(gone.is_none()),
            (Goal::Be(_) | Goal::Suspended, None) => prop_assert!(false, "removed without being asked"),
            (Goal::Be(DesiredState::Stopped), Some(state)) => prop_assert_eq!(state, &RunState::Off),
            (Goal::Suspended, Some(state)) => {
                prop_assert!(!matches!(state, RunState::Up { .. } | RunState::Waiting { .. }), "{state:?}");
            }
            (Goal::Be(_), Some(state)) => {
                let step = next_step(state, goal, stamp, candidate, now);
                prop_assert!(matches!(step, Step::Rest | Step::RestUntil(_)), "{state:?} still wants {step:?}");
                if let RunState::Up { runs, .. } = state {
                    prop_assert_eq!(*runs, stamp.definition, "it runs what was asked for");
                }
            }
        }
    }

    #[test]
    fn a_running_machine_is_never_stopped_for_a_definition_that_is_not_ready(
        (runs, asked) in (0_u64..3, 0_u64..3),
        candidate in any_candidate(Instant::now()),
        desired in prop_oneof![Just(DesiredState::Running), Just(DesiredState::Paused)],
    ) {
        let step = next_step(&up(stamp(0, 0), runs), Goal::Be(desired), stamp(0, asked), candidate, Instant::now());
        prop_assert!(step != Step::Stop || (runs != asked && candidate == Candidate::Ready), "{step:?}");
    }
}

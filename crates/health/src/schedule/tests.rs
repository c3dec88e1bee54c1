//! One probe: what results amount to, and when runs begin.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn timing(period: u64, failures: u32, successes: u32) -> ProbeTiming {
    let times = |count| NonZeroU32::new(count).expect("not 0");
    ProbeTiming {
        period: SECOND * u32::try_from(period).expect("small"),
        failure_threshold: times(failures),
        success_threshold: times(successes),
        ..ProbeTiming::default()
    }
}

/// What happens to a probe.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(u64),
    Begin,
    Finish(Option<bool>),
    Pause,
    Resume,
    Hasten,
    Start,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8000u64).prop_map(Step::Pass),
        6 => Just(Step::Begin),
        6 => any::<Option<bool>>().prop_map(Step::Finish),
        2 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Hasten),
        1 => Just(Step::Start),
        1 => Just(Step::Stop),
    ]
}

proptest! {
    #[test]
    fn results_count_as_a_list_of_them_says(
        results in prop::collection::vec(any::<bool>(), 0..40), failures in 1..5u32, successes in 1..5u32,
    ) {
        let mut state = ProbeState::new(timing(10, failures, successes), Phase::default());
        state.start(Duration::ZERO);
        let mut expected = ProbeOutcome::Untried;
        for count in 1..=results.len() {
            let now = state.due().expect("it waits");
            prop_assert!(state.begin(now));
            prop_assert!(state.finish(Some(results[count - 1]), now));
            let ends_with = |what: bool, length: u32| {
                let length = usize::try_from(length).expect("small");
                count >= length && results[count - length..count].iter().all(|result| *result == what)
            };
            if ends_with(true, successes) {
                expected = ProbeOutcome::Passing;
            } else if ends_with(false, failures) {
                expected = ProbeOutcome::Failing;
            }
            prop_assert_eq!(state.outcome(), expected);
        }
    }

    #[test]
    fn no_run_begins_while_another_is_under_way_or_the_guest_is_paused(
        steps in prop::collection::vec(step(), 0..80), phase in any::<u16>(),
    ) {
        let mut state = ProbeState::new(timing(4, 3, 1), Phase(phase));
        let (mut now, mut running, mut held, mut started) = (Duration::ZERO, false, false, false);
        for step in steps {
            match step {
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Begin => {
                    let due = state.due();
                    let begun = state.begin(now);
                    prop_assert_eq!(begun, due.is_some_and(|due| due <= now));
                    prop_assert!(!begun || (started && !running && !held));
                    running |= begun;
                }
                Step::Finish(result) => {
                    prop_assert_eq!(state.finish(result, now), running);
                    running = false;
                }
                Step::Pause => {
                    state.pause();
                    held = started;
                    running = false;
                }
                Step::Resume => {
                    state.resume(now);
                    held = false;
                }
                Step::Hasten => state.hasten(now),
                Step::Start => {
                    state.start(now);
                    (started, held, running) = (true, false, false);
                    prop_assert_eq!((state.outcome(), state.failures()), (ProbeOutcome::Untried, 0));
                }
                Step::Stop => {
                    state.stop();
                    (started, held, running) = (false, false, false);
                }
            }
            prop_assert_eq!(state.due().is_some(), started && !held && !running);
        }
    }

    #[test]
    fn runs_are_half_a_period_apart_at_first_and_a_whole_one_then(
        phase in any::<u16>(), took in prop::collection::vec(0..15_000u64, 1..12),
    ) {
        let timing = ProbeTiming { initial_delay: SECOND * 5, ..timing(10, 3, 1) };
        let mut state = ProbeState::new(timing, Phase(phase));
        state.start(SECOND);
        let mut before = None;
        for (number, took) in took.into_iter().enumerate() {
            let begun = state.due().expect("it waits");
            let least = match (before, number) {
                (None, _) => {
                    prop_assert!(begun >= SECOND * 6 && begun < SECOND * 7);
                    SECOND * 6
                }
                (Some(before), 1) => before + SECOND * 5,
                (Some(before), _) => before + SECOND * 10,
            };
            prop_assert!(begun >= least);
            prop_assert!(state.begin(begun));
            let took = Duration::from_millis(took);
            state.finish(Some(true), begun + took);
            let next = state.due().expect("it waits");
            prop_assert!(next >= begun + took && next <= (begun + took).max(begun + SECOND * 10));
            before = Some(begun);
        }
    }
}

#[test]
fn probes_of_many_machines_are_spread() {
    let mut tenths = [0_usize; 10];
    for number in 0..500 {
        let mut state =
            ProbeState::new(timing(10, 3, 1), Phase::of(&VmId::new(&format!("vm-{number}")), "web"));
        state.start(Duration::ZERO);
        let first = state.due().expect("it waits");
        tenths[usize::try_from(first.as_millis() / 100).expect("small")] += 1;
    }
    assert!(tenths.iter().all(|count| (20..=90).contains(count)), "{tenths:?}");
}

#[test]
fn what_is_found_out_after_a_pause_does_not_count() {
    let mut state = ProbeState::new(timing(10, 1, 1), Phase::default());
    state.start(Duration::ZERO);
    assert!(state.begin(SECOND));
    state.pause();
    assert!(!state.finish(Some(false), SECOND * 2));
    state.resume(SECOND * 60);
    assert_eq!((state.outcome(), state.due()), (ProbeOutcome::Untried, Some(SECOND * 65)));
    state.hasten(SECOND * 61);
    assert_eq!(state.due(), Some(SECOND * 61));
}

//! What follows an end, and when.

use proptest::prelude::*;
use vm_model::{FailureClass, FailureKind};

use super::*;

const NEVER_LONG: Duration = Duration::ZERO;

fn failed(kind: FailureKind) -> RunOutcome {
    RunOutcome::Failed(FailureReason::new(kind, "it broke".to_owned()))
}

fn delay(next: &Next) -> Option<Duration> {
    match next {
        Next::Restart { after, .. } => Some(*after),
        Next::StayOff | Next::StayFailed(_) => None,
    }
}

/// The delay after `end` with the most that chance can add, where restarts follow failures.
fn longest_after(history: &mut RestartHistory, end: RunOutcome, ran_for: Duration, now: Instant) -> Duration {
    let next = history.after(end, ran_for, RestartPolicy::OnFailure, now, Jitter::LONGEST);
    delay(&next).expect("restarts")
}

#[test]
fn delays_double_to_a_cap_and_start_over_after_a_healthy_run() {
    let now = Instant::now();
    for (jitter, expected) in [
        (Jitter::SHORTEST, [850, 1_700, 3_400, 6_800, 13_600, 27_200, 42_000, 42_000]),
        (Jitter::LONGEST, [1_150, 2_300, 4_600, 9_200, 18_400, 36_800, 60_000, 60_000]),
    ] {
        let mut history = RestartHistory::default();
        let mut fail = |ran_for| {
            let end = failed(FailureKind::Guest);
            let next = history.after(end, ran_for, RestartPolicy::OnFailure, now, jitter);
            (delay(&next).expect("restarts").as_millis(), history.failures_in_a_row())
        };
        for (number, millis) in (1..).zip(expected) {
            assert_eq!(fail(NEVER_LONG), (millis, number));
        }
        assert_eq!(fail(HEALTHY_AFTER), (expected[0], 1), "it had been healthy");
    }
}

#[test]
fn what_a_restart_cannot_help_is_not_restarted_and_counts_as_no_try() {
    let (mut history, now) = (RestartHistory::default(), Instant::now());
    let mut after = |end, policy| history.after(end, NEVER_LONG, policy, now, Jitter::SHORTEST);
    for kind in [FailureKind::Artifact, FailureKind::HashMismatch] {
        assert!(matches!(after(failed(kind), RestartPolicy::OnFailure), Next::StayFailed(_)));
    }
    assert!(matches!(after(failed(FailureKind::Guest), RestartPolicy::Never), Next::StayFailed(_)));
    assert_eq!(after(RunOutcome::PoweredOff, RestartPolicy::OnFailure), Next::StayOff);
    assert_eq!(history.failures_in_a_row(), 0);
}

#[test]
fn a_few_resets_are_free_and_a_storm_is_slowed() {
    let (mut history, start) = (RestartHistory::default(), Instant::now());
    let mut reset = |now| {
        let next = history.after(RunOutcome::Reset, NEVER_LONG, RestartPolicy::Never, now, Jitter::SHORTEST);
        delay(&next).map(|delay| delay.as_millis())
    };
    let free = ResetLimit::default();
    for _ in 0..free.count {
        assert_eq!(reset(start), Some(0));
    }
    assert_eq!(reset(start), Some(850));
    assert_eq!(reset(start), Some(1_700));
    assert_eq!(reset(start + free.window), Some(0));
}

#[test]
fn resets_in_place_are_no_longer_free_when_they_end_the_machine() {
    let (mut history, start, free) = (RestartHistory::default(), Instant::now(), ResetLimit::default());
    history.note_resets_in_place(u64::from(free.count), start);
    let first = Duration::from_millis(1_150);
    assert_eq!(longest_after(&mut history, RunOutcome::Reset, NEVER_LONG, start), first);
    let later = start + free.window;
    history.note_resets_in_place(u64::MAX, later);
    assert_eq!(longest_after(&mut history, RunOutcome::Reset, NEVER_LONG, later), first);
}

#[test]
fn a_crash_loop_outlives_the_worker() {
    let end = |cause, seconds: u64| RunEnd {
        at: Timestamp::from_millis(0),
        ran_for: Some(Duration::from_secs(seconds)),
        method: EndMethod::Failed,
        cause,
        detail: None,
    };
    let failure = EndCause::Failure { kind: FailureKind::Guest, class: Some(FailureClass::TripleFault) };
    let recalled = |ends: &[RunEnd]| RestartHistory::recalled(ends).failures_in_a_row();
    assert_eq!(recalled(&[]), 0);
    assert_eq!(recalled(&[end(failure, 1), end(EndCause::Guest, 1)]), 0);
    assert_eq!(recalled(&[end(EndCause::Guest, 1), end(failure, 1), end(failure, 1)]), 2);
    assert_eq!(recalled(&[end(failure, 1), end(failure, 600), end(failure, 1)]), 2, "it had been healthy");
    let mut history = RestartHistory::recalled(&[end(failure, 1), end(failure, 1)]);
    let next = longest_after(&mut history, failed(FailureKind::Guest), NEVER_LONG, Instant::now());
    assert_eq!(next, Duration::from_millis(4_600));
}

#[test]
fn the_timings_of_a_run_stand_in_the_reason_of_its_failure() {
    let timings = VmTimings { ended: Some(Duration::from_secs(1)), ..VmTimings::default() };
    let RunOutcome::Failed(reason) = failed(FailureKind::Guest).timed(timings) else { panic!("a failure") };
    assert_eq!(reason.timings.as_deref(), Some(&timings));
    assert_eq!(failed(FailureKind::Guest).timed(VmTimings::default()), failed(FailureKind::Guest));
    assert_eq!(RunOutcome::Reset.timed(timings), RunOutcome::Reset);
}

proptest! {
    #[test]
    fn delays_stay_within_bounds(
        ends in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u64..200), 0..100),
    ) {
        let mut history = RestartHistory::default();
        let mut now = Instant::now();
        for (is_reset, is_long, seconds) in ends {
            now += Duration::from_secs(seconds);
            let end = if is_reset { RunOutcome::Reset } else { failed(FailureKind::Machine) };
            let jitter = if is_long { Jitter::LONGEST } else { Jitter::SHORTEST };
            let ran_for = Duration::from_secs(seconds);
            let next = history.after(end, ran_for, RestartPolicy::OnFailure, now, jitter);
            prop_assert!(delay(&next).expect("always restarts") <= LONGEST_DELAY);
        }
    }
}

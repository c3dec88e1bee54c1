//! When a machine that ended is started again. Pure: time comes in as a parameter.
//!
//! | how it ended | what follows |
//! |---|---|
//! | the guest switched itself off | stays off until started or assigned anew; like a reset where so wished |
//! | the guest reset | starts again at once; with a delay when resets come fast, those in place included |
//! | it failed, and another try can help | starts again after a delay that doubles, if restarts are on |
//! | it failed for good (artifact, hash) | stays failed until assigned anew |

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vm_model::{EndCause, EndMethod, FailureReason, RecentResets, ResetLimit, RunEnd, Timestamp};

/// The first delay after a failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Delays stop growing here.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A machine that ran this long is healthy: the next failure counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Whether failures are followed by restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RestartPolicy {
    /// Also when the guest switched itself off.
    Always,
    /// Yes, with growing delays.
    OnFailure,
    /// No.
    Never,
}

/// How a run came to its end, as far as restarts care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunOutcome {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset.
    Reset,
    /// Something went wrong, before or while the machine ran.
    Failed(FailureReason),
}

impl RunOutcome {
    /// What is kept of it, of a guest that `ran_for` so long if it got as far as that.
    pub(crate) fn to_record(&self, ran_for: Option<Duration>) -> RunEnd {
        let (method, cause, detail) = match self {
            Self::PoweredOff => (EndMethod::PoweredOff, EndCause::Guest, None),
            Self::Reset => (EndMethod::Reset, EndCause::Guest, None),
            Self::Failed(reason) => {
                let cause = EndCause::Failure { kind: reason.kind };
                (EndMethod::Failed, cause, Some(reason.message.clone()))
            }
        };
        RunEnd { at: Timestamp::now(), ran_for, method, cause, detail }
    }
}

impl From<nix_artifacts::RestartPolicy> for RestartPolicy {
    fn from(wish: nix_artifacts::RestartPolicy) -> Self {
        match wish {
            nix_artifacts::RestartPolicy::Always => Self::Always,
            nix_artifacts::RestartPolicy::OnFailure => Self::OnFailure,
            nix_artifacts::RestartPolicy::Never => Self::Never,
        }
    }
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Stay off.
    StayOff,
    /// Stay failed.
    StayFailed(FailureReason),
    /// Start again when the delay is over.
    Restart {
        /// How long to wait.
        after: Duration,
        /// What went wrong, if something did.
        because: Option<FailureReason>,
    },
}

/// What happened lately to one VM.
#[derive(Clone, Debug, Default)]
pub(crate) struct RestartHistory {
    failures_in_a_row: u32,
    resets: RecentResets,
}

impl RestartHistory {
    /// Decides what follows the end of a run at `now`; `ran_for` is how long the guest had been running.
    pub(crate) fn after(
        &mut self,
        end: RunOutcome,
        ran_for: Duration,
        policy: RestartPolicy,
        now: Instant,
    ) -> Next {
        match end {
            RunOutcome::PoweredOff if policy != RestartPolicy::Always => {
                *self = Self::default();
                Next::StayOff
            }
            RunOutcome::PoweredOff | RunOutcome::Reset => {
                Next::Restart { after: self.delay_of_reset(now), because: None }
            }
            RunOutcome::Failed(reason) if !reason.can_retry_help() || policy == RestartPolicy::Never => {
                Next::StayFailed(reason)
            }
            RunOutcome::Failed(reason) => {
                if ran_for >= HEALTHY_AFTER {
                    self.failures_in_a_row = 0;
                }
                let after = doubled(FIRST_DELAY, self.failures_in_a_row);
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                Next::Restart { after, because: Some(reason) }
            }
        }
    }

    /// Takes note of resets that the machine carried out in place by `now`: more of them than are free would have ended it.
    pub(crate) fn note_resets_in_place(&mut self, count: u64, now: Instant) {
        let most = u64::from(ResetLimit::default().count);
        (0..count.min(most)).for_each(|_| self.resets.note(now));
    }

    /// Forgets the past: somebody asked for a fresh start.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn delay_of_reset(&mut self, now: Instant) -> Duration {
        // A guest that resets itself more often has to wait: also one whose machine is launched anew, and so has all its
        // resets in place left, again and again.
        let free = ResetLimit::default();
        let earlier = u32::try_from(self.resets.within(free.window, now)).unwrap_or(u32::MAX);
        self.resets.note(now);
        match earlier.checked_sub(free.count) {
            None => Duration::ZERO,
            Some(excess) => doubled(FIRST_DELAY, excess),
        }
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.min(30))).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::FailureKind;

    use super::*;

    fn failed(kind: FailureKind) -> RunOutcome {
        RunOutcome::Failed(FailureReason {
            kind,
            message: "it broke".into(),
            transient: false,
            console_tail: Vec::new(),
        })
    }

    fn delay(next: &Next) -> Option<Duration> {
        match next {
            Next::Restart { after, .. } => Some(*after),
            Next::StayOff | Next::StayFailed(_) => None,
        }
    }

    #[test]
    fn delays_double_to_a_cap_and_start_over_after_a_healthy_run() {
        let mut history = RestartHistory::default();
        let now = Instant::now();
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let next =
                history.after(failed(FailureKind::Guest), Duration::ZERO, RestartPolicy::OnFailure, now);
            seconds.push(delay(&next).expect("restarts").as_secs());
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        let next = history.after(failed(FailureKind::Guest), HEALTHY_AFTER, RestartPolicy::OnFailure, now);
        assert_eq!(delay(&next), Some(FIRST_DELAY));
    }

    #[test]
    fn what_a_restart_cannot_help_is_not_restarted() {
        let mut history = RestartHistory::default();
        for kind in [FailureKind::Artifact, FailureKind::HashMismatch] {
            let next = history.after(failed(kind), Duration::ZERO, RestartPolicy::OnFailure, Instant::now());
            assert!(matches!(next, Next::StayFailed(_)));
        }
        let next =
            history.after(failed(FailureKind::Guest), Duration::ZERO, RestartPolicy::Never, Instant::now());
        assert!(matches!(next, Next::StayFailed(_)));
        let next =
            history.after(RunOutcome::PoweredOff, Duration::ZERO, RestartPolicy::OnFailure, Instant::now());
        assert_eq!(next, Next::StayOff);
    }

    #[test]
    fn a_few_resets_are_free_and_a_storm_is_slowed() {
        let mut history = RestartHistory::default();
        let start = Instant::now();
        let mut reset =
            |now| delay(&history.after(RunOutcome::Reset, Duration::ZERO, RestartPolicy::Never, now));
        let free = ResetLimit::default();
        for _ in 0..free.count {
            assert_eq!(reset(start), Some(Duration::ZERO));
        }
        assert_eq!(reset(start), Some(FIRST_DELAY));
        assert_eq!(reset(start), Some(FIRST_DELAY * 2));
        assert_eq!(reset(start + free.window), Some(Duration::ZERO));
    }

    #[test]
    fn resets_in_place_are_no_longer_free_when_they_end_the_machine() {
        let (mut history, start, free) = (RestartHistory::default(), Instant::now(), ResetLimit::default());
        history.note_resets_in_place(u64::from(free.count), start);
        let next = history.after(RunOutcome::Reset, Duration::ZERO, RestartPolicy::OnFailure, start);
        assert_eq!(delay(&next), Some(FIRST_DELAY));
        history.note_resets_in_place(u64::MAX, start + free.window);
        let next =
            history.after(RunOutcome::Reset, Duration::ZERO, RestartPolicy::OnFailure, start + free.window);
        assert_eq!(delay(&next), Some(FIRST_DELAY));
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds(ends in prop::collection::vec((any::<bool>(), 0_u64..200), 0..100)) {
            let mut history = RestartHistory::default();
            let mut now = Instant::now();
            for (is_reset, seconds) in ends {
                now += Duration::from_secs(seconds);
                let end = if is_reset { RunOutcome::Reset } else { failed(FailureKind::Machine) };
                let next = history.after(end, Duration::from_secs(seconds), RestartPolicy::OnFailure, now);
                prop_assert!(delay(&next).expect("always restarts") <= LONGEST_DELAY);
            }
        }
    }
}

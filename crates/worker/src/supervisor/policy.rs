//! When a machine that ended is started again. Pure: time and chance come in as parameters.
//!
//! | how it ended | what follows |
//! |---|---|
//! | the guest switched itself off | stays off until started or assigned anew; like a reset where so wished |
//! | the guest reset | starts again at once; with a delay when resets come fast, those in place included |
//! | it failed, and another try can help | starts again after a delay that doubles, if restarts are on; delays are spread by [`Jitter`] |
//! | it failed for good (artifact, hash) | stays failed until assigned anew |

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vm_model::{EndCause, EndMethod, FailureReason, RecentResets, ResetLimit, RunEnd, Timestamp, VmTimings};

use super::jitter::Jitter;

/// The first delay after a failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Delays stop growing here.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A machine that ran this long is healthy: the next failure counts as the first.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(60);

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
                let cause = EndCause::Failure { kind: reason.kind, class: reason.class };
                (EndMethod::Failed, cause, Some(reason.message.clone()))
            }
        };
        RunEnd { at: Timestamp::now(), ran_for, method, cause, detail }
    }

    /// The same, with how long the steps of that run took in the reason of a failure.
    #[must_use]
    pub(crate) fn timed(self, timings: VmTimings) -> Self {
        match self {
            Self::Failed(reason) if timings != VmTimings::default() => {
                Self::Failed(FailureReason { timings: Some(Box::new(timings)), ..reason })
            }
            Self::PoweredOff | Self::Reset | Self::Failed(_) => self,
        }
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
    /// What is known of a VM whose latest runs under earlier workers ended so, oldest first.
    pub(crate) fn recalled(ends: &[RunEnd]) -> Self {
        let mut failures_in_a_row = 0_u32;
        for end in ends.iter().rev() {
            if !matches!(end.cause, EndCause::Failure { .. }) {
                break;
            }
            failures_in_a_row = failures_in_a_row.saturating_add(1);
            if end.ran_for.is_some_and(|ran_for| ran_for >= HEALTHY_AFTER) {
                break;
            }
        }
        Self { failures_in_a_row, ..Self::default() }
    }

    /// Goes on after `failures_in_a_row` that were noted, which may be more than the ends on record tell.
    pub(crate) fn go_on(&mut self, failures_in_a_row: u32) {
        self.failures_in_a_row = self.failures_in_a_row.max(failures_in_a_row);
    }

    /// How many runs and starts failed one after the other.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Takes note that the machine has been there long enough for its next failure to count as the first.
    pub(crate) fn note_healthy(&mut self) {
        self.failures_in_a_row = 0;
    }

    /// Decides what follows the end of a run at `now`; `ran_for` is how long the guest had been running.
    pub(crate) fn after(
        &mut self,
        end: RunOutcome,
        ran_for: Duration,
        policy: RestartPolicy,
        now: Instant,
        jitter: Jitter,
    ) -> Next {
        match end {
            RunOutcome::PoweredOff if policy != RestartPolicy::Always => {
                *self = Self::default();
                Next::StayOff
            }
            RunOutcome::PoweredOff | RunOutcome::Reset => {
                let delay = self.delay_of_reset(now);
                Next::Restart { after: jitter.apply(delay, LONGEST_DELAY), because: None }
            }
            RunOutcome::Failed(reason) if !reason.can_retry_help() || policy == RestartPolicy::Never => {
                Next::StayFailed(reason)
            }
            RunOutcome::Failed(reason) => {
                if ran_for >= HEALTHY_AFTER {
                    self.failures_in_a_row = 0;
                }
                let delay = doubled(FIRST_DELAY, self.failures_in_a_row);
                let after = jitter.apply(delay, LONGEST_DELAY);
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

/// How long to wait after something failed on the host, which failed `failures` times before.
pub(super) fn growing_delay(failures: u32) -> Duration {
    doubled(FIRST_DELAY, failures)
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.min(30))).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests;

//! When a console is written to its files next. Pure.

use std::time::{Duration, Instant};

/// Guests write byte by byte: what follows the first within this time is written together with it.
const COALESCE: Duration = Duration::from_millis(10);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The most that is written of one console over time. A guest that writes faster than that, for longer than memory
/// holds it, leaves gaps in its files.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// How writing what was there went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is written.
    AtEnd,
    /// Everything that was there at the beginning is written, and there is more by now.
    AtGoal,
    /// Something is not written.
    Failed,
}

/// The pace of one console.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
    /// By when what was written so far may have been written.
    paid_at: Option<Instant>,
}

impl Pace {
    /// When to write next; `None` where there is nothing to write.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is something to write.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(self.next(now));
        }
    }

    /// Somebody waits for it.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// `bytes` were written until `now`.
    pub(super) fn written(&mut self, now: Instant, bytes: u64, outcome: Outcome) {
        let takes = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND);
        self.paid_at = Some(now + takes.min(RETRY));
        self.due = match outcome {
            Outcome::AtEnd => None,
            Outcome::AtGoal => Some(self.next(now)),
            Outcome::Failed => Some(now + RETRY),
        };
    }

    fn next(&self, now: Instant) -> Instant {
        self.paid_at.map_or(now, |paid| paid.max(now)).max(now + COALESCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_gathered_paid_for_and_retried() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.wake(at(0));
        pace.wake(at(5));
        assert_eq!(pace.due(), Some(at(10)), "the first counts");
        pace.written(at(10), 100, Outcome::AtEnd);
        assert_eq!(pace.due(), None, "nothing wakes an idle console");

        pace.hurry(at(20));
        assert_eq!(pace.due(), Some(at(20)));
        pace.written(at(20), 1 << 20, Outcome::AtGoal);
        assert_eq!(pace.due(), Some(at(270)), "a MiB is a quarter of a second's worth");
        pace.written(at(270), 1 << 20, Outcome::AtEnd);
        pace.wake(at(271));
        assert_eq!(pace.due(), Some(at(520)));

        pace.written(at(600), 0, Outcome::Failed);
        pace.wake(at(601));
        assert_eq!(pace.due(), Some(at(1600)), "a write does not bring the retry forward");
    }
}

//! Which slow turns of an event loop are logged. Pure: the machine's thread asks, then logs.

use std::time::{Duration, Instant};

/// A turn that takes longer keeps everything else of its machine waiting for too long.
const SLOW: Duration = Duration::from_millis(50);
/// After one was logged, others are only counted for so long.
const QUIET: Duration = Duration::from_secs(10);

/// One machine's slow turns.
#[derive(Debug, Default)]
pub(crate) struct SlowTurns {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl SlowTurns {
    /// Notes a turn that `took` so long and ended at `now`, which is called for slow turns only. Returns `Some` if it is
    /// to be logged, with the number of slow turns suppressed since the last one that was.
    pub(crate) fn note(&mut self, took: Duration, now: impl FnOnce() -> Instant) -> Option<u64> {
        if took <= SLOW {
            return None;
        }
        let now = now();
        if self.logged_at.is_some_and(|logged| now.saturating_duration_since(logged) < QUIET) {
            self.suppressed += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_turns_are_told_now_and_then_and_counted_in_between() {
        let begun = Instant::now();
        let at = |seconds| move || begun + Duration::from_secs(seconds);
        let (quick, slow) = (SLOW, SLOW + Duration::from_nanos(1));
        let mut turns = SlowTurns::default();
        assert_eq!(turns.note(quick, at(0)), None);
        assert_eq!(turns.note(slow, at(1)), Some(0));
        assert_eq!(turns.note(slow, at(2)), None);
        assert_eq!(turns.note(slow, at(10)), None);
        assert_eq!(turns.note(quick, at(20)), None);
        assert_eq!(turns.note(slow, at(20)), Some(2));
        assert_eq!(turns.note(slow, at(21)), None);
        assert_eq!(turns.note(slow, at(31)), Some(1));
    }
}

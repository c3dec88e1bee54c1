//! How much of one worker a master reads in a time.

use std::time::{Duration, Instant};

/// What a connection may send in a second, on average.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// What it may send at once: a full report of a large host.
const BURST: u64 = 16 << 20;
/// What a frame costs at least; small ones are work too.
const FRAME_LEAST: u64 = 1 << 10;

/// A bucket of bytes that fills with time. Reading pauses while it is overdrawn; nothing is dropped.
#[derive(Debug)]
pub(super) struct ReadBudget {
    left: u64,
    filled_at: Instant,
    resume_at: Option<Instant>,
}

impl ReadBudget {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, filled_at: now, resume_at: None }
    }

    /// Pays for a frame of `bytes`.
    pub(super) fn pay(&mut self, bytes: usize, now: Instant) {
        let since = now.saturating_duration_since(self.filled_at).as_millis();
        let gained = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_SECOND / 1000);
        self.left = self.left.saturating_add(gained).min(BURST);
        self.filled_at = now;
        let cost = u64::try_from(bytes).unwrap_or(u64::MAX).max(FRAME_LEAST);
        let owed = cost.saturating_sub(self.left);
        self.left = self.left.saturating_sub(cost);
        self.resume_at =
            (owed > 0).then(|| now + Duration::from_millis(owed / (BYTES_PER_SECOND / 1000) + 1));
    }

    /// When reading goes on; `None` where it need not pause.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.resume_at.filter(|resume_at| now < *resume_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_flood_is_slowed() {
        let mut now = Instant::now();
        let mut budget = ReadBudget::new(now);
        for _ in 0..4 {
            budget.pay(4 << 20, now);
            assert_eq!(budget.paused_until(now), None);
        }
        budget.pay(4 << 20, now);
        let resume_at = budget.paused_until(now).expect("it is overdrawn");
        assert!((900..1200).contains(&(resume_at - now).as_millis()), "{:?}", resume_at - now);
        now = resume_at;
        assert_eq!(budget.paused_until(now), None);
    }

    #[test]
    fn many_small_frames_are_no_way_around_it() {
        let now = Instant::now();
        let mut budget = ReadBudget::new(now);
        let free = (0..100_000).take_while(|_| {
            budget.pay(10, now);
            budget.paused_until(now).is_none()
        });
        assert_eq!(free.count(), 16 << 10);
    }
}

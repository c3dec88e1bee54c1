//! When a disk is tried again whose requests the host cannot carry out: soon at first, then less and less often. Pure.

use std::time::{Duration, Instant};

use vm_model::DiskTrouble;

/// How long to wait before the first try.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why a machine's vCPUs are parked although nobody paused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What was told of it last.
    pub(super) told: DiskTrouble,
    /// How long to wait after the next try.
    wait: Duration,
    next_try: Instant,
}

impl Trouble {
    /// One that begins at `now`.
    pub(super) fn begin(told: DiskTrouble, now: Instant) -> Self {
        Self { told, wait: FIRST_WAIT * 2, next_try: now + FIRST_WAIT }
    }

    /// When to try again.
    pub(super) fn next_try(&self) -> Instant {
        self.next_try
    }

    /// Whether to try again at `now`, from which on the next wait counts.
    pub(super) fn take_try(&mut self, now: Instant) -> bool {
        let is_due = self.next_try <= now;
        if is_due {
            self.next_try = now + self.wait;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        is_due
    }

    /// Has the next try come at `now`, and those after it as from the beginning.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_try = now;
        self.wait = FIRST_WAIT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(trouble: &mut Trouble, mut now: Instant, count: usize) -> Vec<u128> {
        let mut waits = Vec::new();
        for _ in 0..count {
            let wait = trouble.next_try().saturating_duration_since(now);
            assert!(wait.is_zero() || !trouble.take_try(now), "not before its time");
            now += wait;
            assert!(trouble.take_try(now));
            waits.push(wait.as_millis());
        }
        waits
    }

    #[test]
    fn tries_come_less_and_less_often_until_somebody_asks() {
        let now = Instant::now();
        let told = DiskTrouble { disk: "root".to_owned(), problem: "no space".to_owned() };
        let mut trouble = Trouble::begin(told, now);
        assert_eq!(waits(&mut trouble, now, 9), [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let later = now + Duration::from_secs(60);
        trouble.hurry(later);
        assert_eq!(waits(&mut trouble, later, 4), [0, 50, 100, 200]);
    }
}

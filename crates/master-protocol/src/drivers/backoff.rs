//! How long to wait before dialling again.

use std::time::Duration;

/// Bounds of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// About how long the first wait is.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for BackoffLimits {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// Waits that double up to a limit, each between half of that and all of it, so that the workers of a master that comes
/// back do not all dial at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: BackoffLimits,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub fn new(limits: BackoffLimits) -> Self {
        Self { limits, failures: 0 }
    }

    /// The wait after one more failure. `random` decides where in its range it lies.
    pub fn next_wait(&mut self, random: u64) -> Duration {
        let doubled = self.limits.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(self.limits.longest);
        let half = whole / 2;
        // A thousand steps are fine enough to spread workers.
        let share = u32::try_from(random % 1000).unwrap_or_default();
        half + (whole - half) * share / 1000
    }

    /// The connection held: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_up_to_the_limit(randoms in prop::collection::vec(any::<u64>(), 1..80)) {
            let limits = BackoffLimits { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
            let mut backoff = Backoff::new(limits);
            for (failure, random) in randoms.into_iter().enumerate() {
                let whole = Duration::from_secs(1 << failure.min(6)).min(limits.longest);
                let wait = backoff.next_wait(random);
                prop_assert!(whole / 2 <= wait && wait < whole, "{wait:?} of {whole:?}");
            }
            backoff.reset();
            prop_assert!(backoff.next_wait(u64::MAX) < limits.first);
        }
    }
}

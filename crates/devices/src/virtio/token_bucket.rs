//! A token bucket: so much at once, and so much a time from then on. Pure: time comes in with each question.
//!
//! ```text
//! burst ─(once)─┐
//!               ├──→ take(now, tokens) ──→ granted, or how long to wait
//! level ────────┘
//!   ↑ size per refill time, up to size
//! ```
//!
//! What is larger than the whole bucket is granted when the bucket is full and paid for afterwards: the level goes
//! below zero. So nothing waits forever, and the rate is kept over time. Levels are kept in units of a
//! token times the refill time in nanoseconds, so that nothing is lost to rounding.

use std::time::{Duration, Instant};

use thiserror::Error;

/// The most tokens of a bucket, and of its burst.
const TOKENS_MAX: u64 = 1 << 48;
/// The longest time of a refill.
const REFILL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How much one bucket lets through: `size` each `refill_time`, and `one_time_burst` on top of that once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLimits {
    size: u64,
    one_time_burst: u64,
    refill_time: Duration,
}

/// Why figures are no [`BucketLimits`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BucketLimitsError {
    /// Nothing would ever pass, or the figure is out of bounds.
    #[error("a bucket of {size} tokens, expected 1 to {TOKENS_MAX}")]
    Size {
        /// The figure.
        size: u64,
    },
    /// The figure is out of bounds.
    #[error("a burst of {burst} tokens, expected at most {TOKENS_MAX}")]
    Burst {
        /// The figure.
        burst: u64,
    },
    /// The time is out of bounds.
    #[error("a bucket refilled in {time:?}, expected 1 ms to 24 h")]
    RefillTime {
        /// The time.
        time: Duration,
    },
}

impl BucketLimits {
    /// Checks the figures.
    ///
    /// # Errors
    /// One of them is out of bounds.
    pub fn new(size: u64, one_time_burst: u64, refill_time: Duration) -> Result<Self, BucketLimitsError> {
        if !(1..=TOKENS_MAX).contains(&size) {
            return Err(BucketLimitsError::Size { size });
        }
        if one_time_burst > TOKENS_MAX {
            return Err(BucketLimitsError::Burst { burst: one_time_burst });
        }
        if !(Duration::from_millis(1)..=REFILL_MAX).contains(&refill_time) {
            return Err(BucketLimitsError::RefillTime { time: refill_time });
        }
        Ok(Self { size, one_time_burst, refill_time })
    }
}

/// The state of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// At most 2^48, each.
    size: i128,
    burst: u64,
    /// At most 2^47.
    refill_nanos: i128,
    /// Tokens times `refill_nanos`; below zero after more than the whole bucket was granted.
    level: i128,
    refilled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(limits: &BucketLimits, now: Instant) -> Self {
        let size = i128::from(limits.size);
        let refill_nanos = nanoseconds(limits.refill_time);
        Self { size, burst: limits.one_time_burst, refill_nanos, level: size * refill_nanos, refilled: now }
    }

    /// Refills the bucket up to `now`, and says whether it grants `tokens`, or how long from `now` it takes until
    /// it does if nothing else is taken. Takes nothing.
    pub(crate) fn ready(&mut self, now: Instant, tokens: u64) -> Result<(), Duration> {
        self.refill(now);
        let wanted = self.beyond_burst(tokens).min(self.size) * self.refill_nanos;
        let missing = wanted - self.level;
        if missing <= 0 {
            return Ok(());
        }
        // A level rises by `size` units a nanosecond. Rounded up, so that the wait is never in vain.
        let nanos = (missing + self.size - 1) / self.size;
        Err(Duration::from_nanos_u128(u128::try_from(nanos).unwrap_or(0)))
    }

    /// Takes `tokens`, whether or not [`TokenBucket::ready`] granted as many.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.level -= self.beyond_burst(tokens) * self.refill_nanos;
        self.burst = self.burst.saturating_sub(tokens);
    }

    fn refill(&mut self, now: Instant) {
        let passed = nanoseconds(now.saturating_duration_since(self.refilled));
        self.level =
            self.level.saturating_add(passed.saturating_mul(self.size)).min(self.size * self.refill_nanos);
        self.refilled = self.refilled.max(now);
    }

    fn beyond_burst(&self, tokens: u64) -> i128 {
        i128::from(tokens.saturating_sub(self.burst))
    }
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(size: u64, burst: u64, refill: Duration) -> (TokenBucket, Instant) {
        let start = Instant::now();
        (TokenBucket::new(&BucketLimits::new(size, burst, refill).unwrap(), start), start)
    }

    fn take(bucket: &mut TokenBucket, now: Instant, tokens: u64) -> Result<(), Duration> {
        bucket.ready(now, tokens).map(|()| bucket.take(tokens))
    }

    #[test]
    fn an_empty_bucket_fills_at_its_rate() {
        let (mut bucket, start) = bucket(100, 0, SECOND);
        assert_eq!(take(&mut bucket, start, 100), Ok(()));
        assert_eq!(take(&mut bucket, start, 25), Err(SECOND / 4));
        assert_eq!(take(&mut bucket, start + SECOND / 4, 25), Ok(()));
        assert_eq!(take(&mut bucket, start + SECOND * 10, 100), Ok(()), "it holds no more than its size");
        assert_eq!(take(&mut bucket, start + SECOND * 10, 1), Err(SECOND / 100));
    }

    #[test]
    fn a_burst_is_had_once() {
        let (mut bucket, start) = bucket(10, 50, SECOND);
        assert_eq!(take(&mut bucket, start, 55), Ok(()));
        assert_eq!(take(&mut bucket, start, 5), Ok(()));
        assert_eq!(take(&mut bucket, start, 10), Err(SECOND));
        assert_eq!(take(&mut bucket, start + SECOND * 60, 11), Ok(()));
        assert_eq!(take(&mut bucket, start + SECOND * 60, 1), Err(SECOND / 5), "the one above is paid for");
    }

    #[test]
    fn what_is_larger_than_the_bucket_is_paid_for_afterwards() {
        let (mut bucket, start) = bucket(10, 0, SECOND);
        assert_eq!(take(&mut bucket, start, 30), Ok(()));
        assert_eq!(take(&mut bucket, start, 30), Err(SECOND * 3));
        assert_eq!(take(&mut bucket, start, 1), Err(SECOND * 2 + SECOND / 10));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_twice() {
        let (mut bucket, start) = bucket(10, 0, SECOND);
        assert_eq!(take(&mut bucket, start + SECOND, 10), Ok(()));
        assert_eq!(take(&mut bucket, start, 10), Err(SECOND));
        assert_eq!(take(&mut bucket, start + SECOND, 10), Err(SECOND));
    }

    #[test]
    fn figures_out_of_bounds_are_refused() {
        let new = |size, burst, time| BucketLimits::new(size, burst, time).map(|_limits| ());
        assert_eq!(new(0, 0, SECOND), Err(BucketLimitsError::Size { size: 0 }));
        assert_eq!(new(u64::MAX, 0, SECOND), Err(BucketLimitsError::Size { size: u64::MAX }));
        assert_eq!(new(1, u64::MAX, SECOND), Err(BucketLimitsError::Burst { burst: u64::MAX }));
        let zero = Duration::ZERO;
        assert_eq!(new(1, 0, zero), Err(BucketLimitsError::RefillTime { time: zero }));
        assert_eq!(new(TOKENS_MAX, TOKENS_MAX, REFILL_MAX), Ok(()));
    }

    fn limits() -> impl Strategy<Value = BucketLimits> {
        let tokens = || prop_oneof![1u64..100, 1..=TOKENS_MAX];
        (tokens(), prop_oneof![Just(0), tokens()], prop_oneof![1u64..2000, 1..=86_400_000u64])
            .prop_map(|(size, burst, ms)| BucketLimits::new(size, burst, Duration::from_millis(ms)).unwrap())
    }

    proptest! {
        #[test]
        fn no_more_passes_than_the_limits_say_and_no_wait_is_in_vain(
            limits in limits(),
            steps in proptest::collection::vec((0u64..3_000_000_000, prop_oneof![0u64..200, any::<u32>().prop_map(u64::from)]), 1..60),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(&limits, start);
            let (mut now, mut granted, mut largest) = (start, 0u128, 0u64);
            for (pause, tokens) in steps {
                now += Duration::from_nanos(pause);
                if let Err(wait) = bucket.ready(now, tokens) {
                    prop_assert!(wait > Duration::ZERO);
                    let early = wait - Duration::from_nanos(1);
                    prop_assert!(bucket.clone().ready(now + early, tokens).is_err(), "it waits no longer than needed");
                    now += wait;
                    prop_assert_eq!(bucket.ready(now, tokens), Ok(()));
                }
                bucket.take(tokens);
                granted += u128::from(tokens);
                largest = largest.max(tokens);
                let refilled = u128::from(limits.size) * (now - start).as_nanos() / limits.refill_time.as_nanos();
                let most = u128::from(limits.size) + u128::from(limits.one_time_burst) + refilled + u128::from(largest);
                prop_assert!(granted <= most, "{} of {}", granted, most);
            }
        }
    }
}

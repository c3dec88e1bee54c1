//! What a device of this machine may move in a time: two token buckets and the timer that ends a wait.
//!
//! A device asks before it takes a request. One that is refused stays in its queue, and the timer, which is among
//! the device's own events, says when to look again: no thread waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::token_bucket::{BucketLimits, TokenBucket};

/// The shortest wait. What comes in meanwhile is granted together, so that a high rate is no timer a request.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The limits of one device. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Bytes of data.
    pub bandwidth: Option<BucketLimits>,
    /// Requests or packets.
    pub operations: Option<BucketLimits>,
}

/// The state of one device's limits.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    operations: Option<TokenBucket>,
    timer: OwnedFd,
}

impl RateLimiter {
    /// `None` where nothing is limited.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(crate) fn new(limits: &RateLimits) -> io::Result<Option<Self>> {
        if *limits == RateLimits::default() {
            return Ok(None);
        }
        let now = Instant::now();
        let bucket = |limits: Option<BucketLimits>| limits.map(|limits| TokenBucket::new(&limits, now));
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Some(Self {
            bandwidth: bucket(limits.bandwidth),
            operations: bucket(limits.operations),
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
        }))
    }

    /// Gets an edge when what was refused last is worth another try.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Grants one operation of `bytes` at `now` and takes it, or sets the timer.
    pub(crate) fn admit(&mut self, now: Instant, bytes: u64) -> bool {
        let granted = self.grants(now, bytes);
        if granted {
            self.take(bytes);
        }
        granted
    }

    /// As [`RateLimiter::admit`], but takes nothing yet: for an operation that may come to nothing, or whose size is
    /// known only after it.
    pub(crate) fn grants(&mut self, now: Instant, bytes: u64) -> bool {
        let bandwidth = ready(&mut self.bandwidth, now, bytes);
        let operations = ready(&mut self.operations, now, 1);
        match bandwidth.err().max(operations.err()) {
            None => true,
            Some(wait) => {
                self.set_timer(wait.max(WAIT_MIN));
                false
            }
        }
    }

    /// Takes one operation of `bytes` that was done. What was not granted in full is paid for by those that follow.
    pub(crate) fn take(&mut self, bytes: u64) {
        take(&mut self.bandwidth, bytes);
        take(&mut self.operations, 1);
    }

    fn set_timer(&self, wait: Duration) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A bucket is refilled within days and owes at most some of 4 GiB: no wait is too long for the kernel.
        let it_value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let spec = Itimerspec { it_interval: zero, it_value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            tracing::error!(%error, ?wait, "a rate limit's timer could not be set");
        }
    }
}

fn ready(bucket: &mut Option<TokenBucket>, now: Instant, tokens: u64) -> Result<(), Duration> {
    bucket.as_mut().map_or(Ok(()), |bucket| bucket.ready(now, tokens))
}

fn take(bucket: &mut Option<TokenBucket>, tokens: u64) {
    if let Some(bucket) = bucket {
        bucket.take(tokens);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn limits(size: u64) -> Option<BucketLimits> {
        Some(BucketLimits::new(size, 0, Duration::from_secs(1)).unwrap())
    }

    #[test]
    fn nothing_limited_is_no_limiter() {
        assert!(RateLimiter::new(&RateLimits::default()).unwrap().is_none());
    }

    #[test]
    fn a_refusal_by_one_bucket_takes_nothing_from_the_other() {
        let limits = RateLimits { bandwidth: limits(1000), operations: limits(2) };
        let mut limiter = RateLimiter::new(&limits).unwrap().unwrap();
        let now = Instant::now();
        assert!(limiter.admit(now, 600));
        assert!(!limiter.admit(now, 600), "too many bytes");
        assert!(limiter.admit(now, 400), "the operation is still there");
        assert!(!limiter.admit(now, 0), "too many operations");
    }

    #[test]
    fn what_is_known_afterwards_is_paid_for_afterwards() {
        let limits = RateLimits { bandwidth: limits(1000), operations: None };
        let mut limiter = RateLimiter::new(&limits).unwrap().unwrap();
        let now = Instant::now();
        assert!(limiter.grants(now, 1));
        assert!(limiter.admit(now, 1000), "nothing was taken");
        limiter.take(500);
        assert!(!limiter.grants(now + Duration::from_millis(500), 1));
        assert!(limiter.grants(now + Duration::from_millis(501), 1));
    }

    #[test]
    fn the_timer_tells_when_to_try_again() {
        let limits = RateLimits { bandwidth: None, operations: limits(50) };
        let mut limiter = RateLimiter::new(&limits).unwrap().unwrap();
        let now = Instant::now();
        while limiter.admit(now, 0) {}
        poll(&mut [PollFd::from_borrowed_fd(limiter.timer(), PollFlags::IN)], None).unwrap();
        assert!(limiter.admit(Instant::now(), 0));
    }
}

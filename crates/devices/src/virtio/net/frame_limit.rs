//! The rate limit of one direction, shared by all queues of a card, so that a guest gets no more by using more of them.
//!
//! Sizes are known before a frame is sent, but only after one was received: that one is paid for afterwards.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::virtio::RateLimits;
use crate::virtio::rate_limiter::RateLimiter;

/// The rate limit of one direction.
pub(super) struct FrameLimit {
    /// `None` where nothing is limited.
    limiter: Option<RateLimiter>,
    /// A frame was held back: nothing passes before the timer's event.
    exhausted: bool,
    /// The pair of queues whose turn it is, and whether a frame of its has passed.
    turn: (usize, bool),
    /// The pair to be served first once frames may pass again.
    first: usize,
}

impl FrameLimit {
    /// A limit that nothing has been taken from.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(super) fn new(limits: &RateLimits) -> io::Result<Self> {
        Ok(Self { limiter: RateLimiter::new(limits)?, exhausted: false, turn: (0, false), first: 0 })
    }

    /// Becomes readable when [`FrameLimit::replenish`] is to be called; `None` where nothing is limited.
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.limiter.as_ref().map(RateLimiter::timer)
    }

    /// The frames that follow are those of `pair`.
    pub(super) fn begin(&mut self, pair: usize) {
        self.turn = (pair, false);
    }

    /// Whether a frame of `bytes` may pass now. After a refusal none may until [`FrameLimit::replenish`], so that small frames do
    /// not starve a large one.
    pub(super) fn lets_pass(&mut self, bytes: u64) -> bool {
        if let Some(limiter) = &mut self.limiter
            && !self.exhausted
            && !limiter.grants(Instant::now(), bytes)
        {
            self.exhausted = true;
            let (pair, passed) = self.turn;
            // A pair that has sent nothing yet is served first, else the next one: no pair takes all of the rate.
            self.first = if passed { pair + 1 } else { pair };
        }
        !self.exhausted
    }

    /// Whether a frame waits for the timer.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// A frame of `bytes` passed.
    pub(super) fn count(&mut self, bytes: u64) {
        self.turn.1 = true;
        if let Some(limiter) = &mut self.limiter {
            limiter.take(bytes);
        }
    }

    /// Lets frames pass again, after the timer's event. Returns the pair to serve first, which may be one past the last.
    pub(super) fn replenish(&mut self) -> usize {
        self.exhausted = false;
        self.first
    }
}

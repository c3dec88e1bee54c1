//! The rate limit of one direction, shared by all queues of a card, so that a guest gets no more by using more of them.
//!
//! Sizes are known before a frame is sent, but only after one was received: that one is paid for afterwards.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::virtio::RateLimits;
use crate::virtio::rate_limiter::RateLimiter;

/// Lets frames pass at a rate.
pub(super) struct Gate {
    /// `None` where nothing is limited.
    limiter: Option<RateLimiter>,
    /// A frame was held back: nothing passes before the timer's event.
    shut: bool,
    /// The pair of queues whose turn it is, and whether a frame of its has passed.
    turn: (usize, bool),
    /// The pair whose turn is first once the gate is opened.
    first: usize,
}

impl Gate {
    /// An open gate.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(super) fn new(limits: &RateLimits) -> io::Result<Self> {
        Ok(Self { limiter: RateLimiter::new(limits)?, shut: false, turn: (0, false), first: 0 })
    }

    /// Gets an edge when the gate is to be opened.
    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.limiter.as_ref().map(RateLimiter::timer)
    }

    /// The frames that follow are those of `pair`.
    pub(super) fn begin(&mut self, pair: usize) {
        self.turn = (pair, false);
    }

    /// Whether a frame of `bytes` may pass now. After a refusal none may until [`Gate::open`], so that small frames do
    /// not starve a large one and nobody asks again and again.
    pub(super) fn lets_pass(&mut self, bytes: u64) -> bool {
        if let Some(limiter) = &mut self.limiter
            && !self.shut
            && !limiter.grants(Instant::now(), bytes)
        {
            self.shut = true;
            let (pair, passed) = self.turn;
            // Who had nothing yet is the first, else the next one is: no pair takes all of the rate.
            self.first = if passed { pair + 1 } else { pair };
        }
        !self.shut
    }

    /// Whether a frame waits for the timer.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// A frame of `bytes` passed.
    pub(super) fn count(&mut self, bytes: u64) {
        self.turn.1 = true;
        if let Some(limiter) = &mut self.limiter {
            limiter.take(bytes);
        }
    }

    /// The timer's event came, or may have. The pair whose turn is first, or one past the last.
    pub(super) fn open(&mut self) -> usize {
        self.shut = false;
        self.first
    }
}

//! Heartbeats of one end: when to say something, when the other end counts as lost.

use std::time::{Duration, Instant};

use super::EndReason;

/// So many heartbeats without a word, or without taking one, and the other end is lost.
const PATIENCE: u32 = 3;

/// What was heard and sent on an established connection, and when.
#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    started_at: Instant,
    heard_at: Instant,
    sent_at: Instant,
    /// Since when a message waits for the host to take it.
    sending_since: Option<Instant>,
    /// The newest question that was not answered yet. Older ones are answered together with it.
    pong_owed: Option<u64>,
    nonce: u64,
}

impl Liveness {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            started_at: now,
            heard_at: now,
            sent_at: now,
            sending_since: None,
            pong_owed: None,
            nonce: 0,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// A frame came, of whichever type.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// A `ping` came.
    pub(super) fn asked(&mut self, nonce: u64) {
        self.pong_owed = Some(nonce);
    }

    /// A message is being sent.
    pub(super) fn sending(&mut self, now: Instant) {
        self.sending_since = Some(now);
        self.sent_at = now;
    }

    /// The message is with the host.
    pub(super) fn sent(&mut self) {
        self.sending_since = None;
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending_since.is_some()
    }

    /// The nonce of a `pong` to send.
    pub(super) fn take_pong(&mut self) -> Option<u64> {
        self.pong_owed.take()
    }

    /// The nonce of a `ping` to send: nothing else was for an interval.
    pub(super) fn take_ping(&mut self, now: Instant) -> Option<u64> {
        (now >= self.ping_due()).then(|| {
            self.nonce += 1;
            self.nonce
        })
    }

    /// Why the other end is lost, if it is.
    pub(super) fn lost(&self, now: Instant) -> Option<EndReason> {
        let patience = self.interval * PATIENCE;
        if now >= self.heard_at + patience {
            return Some(EndReason::Silent(patience));
        }
        match self.sending_since {
            Some(since) if now >= since + patience => Some(EndReason::Stalled(patience)),
            Some(_) | None => None,
        }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Instant {
        let lost = self.heard_at + self.interval * PATIENCE;
        match self.sending_since {
            // Nothing can be sent meanwhile.
            Some(since) => lost.min(since + self.interval * PATIENCE),
            None => lost.min(self.ping_due()),
        }
    }

    fn ping_due(&self) -> Instant {
        self.sent_at + self.interval
    }
}

//! How long a turn of the event loop took, and which of its handlers took most of it.
//!
//! The clock is read once for each handler, and once before the first. What is too long is decided by the machine's
//! owner.

use std::fmt;
use std::time::{Duration, Instant};

use crate::poller::Token;

/// One turn of the event loop, from when something became readable until all of it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnReport<'machine> {
    /// How long it took.
    pub took: Duration,
    /// The handler that took longest.
    pub slowest: Handler<'machine>,
    /// How long that one took.
    pub slowest_took: Duration,
}

/// What the event loop calls, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler<'machine> {
    /// [`super::Controller::event`] for events of vCPU threads and devices.
    News,
    /// [`super::Controller::deadline_passed`].
    Deadline,
    /// A disk whose requests the host could not carry out: vCPUs parked, requests tried again.
    DiskTrouble,
    /// [`super::Controller::woken`].
    Controller,
    /// [`super::Controller::event`] for a console with room.
    ConsoleRoom,
    /// The watchdog's timer.
    Watchdog,
    /// A queue's doorbell.
    Queue {
        /// The device's name.
        device: &'machine str,
        /// The queue's number.
        queue: u16,
    },
    /// A descriptor of a device's own.
    Device {
        /// The device's name.
        device: &'machine str,
        /// The descriptor's token, as the device numbers them.
        token: u16,
    },
}

impl fmt::Display for Handler<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::News => formatter.write_str("news"),
            Self::Deadline => formatter.write_str("deadline"),
            Self::DiskTrouble => formatter.write_str("disk trouble"),
            Self::Controller => formatter.write_str("controller"),
            Self::ConsoleRoom => formatter.write_str("console room"),
            Self::Watchdog => formatter.write_str("watchdog"),
            Self::Queue { device, queue } => write!(formatter, "queue {queue} of {device}"),
            Self::Device { device, token } => write!(formatter, "event {token} of {device}"),
        }
    }
}

/// A handler before its device's name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    News,
    Deadline,
    DiskTrouble,
    Token(Token),
}

/// Times the handlers of one turn.
#[derive(Debug)]
pub(super) struct TurnClock {
    begun: Instant,
    last: Instant,
    slowest: (Handled, Duration),
}

impl TurnClock {
    /// A turn that begins at `now`.
    pub(super) fn begin(now: Instant) -> Self {
        Self { begun: now, last: now, slowest: (Handled::News, Duration::ZERO) }
    }

    /// `handled` ended at `now`, and began when what was before it ended.
    pub(super) fn note(&mut self, handled: Handled, now: Instant) {
        let took = now.saturating_duration_since(self.last);
        self.last = now;
        if took > self.slowest.1 {
            self.slowest = (handled, took);
        }
    }

    /// Reports the turn until the last handler noted; `name` names the slowest one.
    pub(super) fn finish<'machine>(
        &self,
        name: impl FnOnce(Handled) -> Handler<'machine>,
    ) -> TurnReport<'machine> {
        let (handled, slowest_took) = self.slowest;
        let took = self.last.saturating_duration_since(self.begun);
        TurnReport { took, slowest: name(handled), slowest_took }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_handler_is_named() {
        let begun = Instant::now();
        let after = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut clock = TurnClock::begin(begun);
        clock.note(Handled::News, after(1));
        clock.note(Handled::Token(Token::Doorbell { device: 2, queue: 1 }), after(60));
        clock.note(Handled::Token(Token::Controller), after(90));
        let turn = clock.finish(|handled| {
            assert_eq!(handled, Handled::Token(Token::Doorbell { device: 2, queue: 1 }));
            Handler::Queue { device: "disk2", queue: 1 }
        });
        assert_eq!((turn.took, turn.slowest_took), (Duration::from_millis(90), Duration::from_millis(59)));
        assert_eq!(turn.slowest.to_string(), "queue 1 of disk2");
    }
}

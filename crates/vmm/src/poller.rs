//! The event loop's epoll: what is watched, under which token, and one wait.
//!
//! Devices' descriptors are watched edge-triggered, so a doorbell's counter is never read: each write to it is an
//! edge. The controller's own is level-triggered: whoever owns it drains it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What a descriptor that became readable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Whoever controls the machine wants something.
    Controller,
    /// vCPU threads or devices have news.
    Outcome,
    /// The serial port takes input again.
    SerialRoom,
    /// The virtio console takes input again.
    ConsoleRoom,
    /// The watchdog's time is over.
    Watchdog,
    /// A queue's doorbell rang.
    Doorbell { device: u16, queue: u16 },
    /// A device's own descriptor is readable.
    Device { device: u16, token: u16 },
}

impl Token {
    fn encode(self) -> u64 {
        let pack =
            |kind: u64, device: u16, detail: u16| kind << 32 | u64::from(device) << 16 | u64::from(detail);
        match self {
            Self::Controller => pack(0, 0, 0),
            Self::Outcome => pack(1, 0, 0),
            Self::SerialRoom => pack(2, 0, 0),
            Self::Doorbell { device, queue } => pack(3, device, queue),
            Self::Device { device, token } => pack(4, device, token),
            Self::ConsoleRoom => pack(5, 0, 0),
            Self::Watchdog => pack(6, 0, 0),
        }
    }

    fn decode(number: u64) -> Option<Self> {
        let [detail_low, detail_high, device_low, device_high, kind, ..] = number.to_le_bytes();
        let device = u16::from_le_bytes([device_low, device_high]);
        let detail = u16::from_le_bytes([detail_low, detail_high]);
        match kind {
            0 => Some(Self::Controller),
            1 => Some(Self::Outcome),
            2 => Some(Self::SerialRoom),
            3 => Some(Self::Doorbell { device, queue: detail }),
            4 => Some(Self::Device { device, token: detail }),
            5 => Some(Self::ConsoleRoom),
            6 => Some(Self::Watchdog),
            _ => None,
        }
    }
}

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Told again at each new event.
    Edge,
    /// Told again for as long as it is readable.
    Level,
}

/// Most descriptors told of in one wait.
const BATCH: usize = 32;

/// One machine's epoll.
pub(crate) struct Poller {
    epoll: Epoll,
    ready: Vec<EpollEvent>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, ready: vec![EpollEvent::default(); BATCH] })
    }

    /// Watches `fd` for readability. A closed descriptor is forgotten by the kernel.
    pub(crate) fn watch(&self, fd: &impl AsRawFd, token: Token, trigger: Trigger) -> io::Result<()> {
        let events = match trigger {
            Trigger::Edge => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Trigger::Level => EventSet::IN,
        };
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(events, token.encode()))
    }

    /// Stops watching `fd`.
    pub(crate) fn forget(&self, fd: RawFd) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default())
    }

    /// Waits until something is readable or `deadline` came, and puts what is readable into `tokens`.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, tokens: &mut Vec<Token>) -> io::Result<()> {
        tokens.clear();
        let count = loop {
            let timeout = deadline.map_or(FOR_EVER, |deadline| timeout(deadline, Instant::now()));
            match self.epoll.wait(timeout, &mut self.ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let ready = &self.ready[..count];
        tokens.extend(ready.iter().filter_map(|event| Token::decode(event.data())));
        Ok(())
    }
}

/// A timeout that never comes.
const FOR_EVER: i32 = -1;

/// Milliseconds until `deadline`, rounded up so that a wait does not end before it.
fn timeout(deadline: Instant, now: Instant) -> i32 {
    let left = deadline.saturating_duration_since(now) + Duration::from_nanos(999_999);
    i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    #[test]
    fn an_eventfd_that_is_never_read_rings_at_each_write() {
        let mut poller = Poller::new().unwrap();
        let bell = EventFd::new(EFD_NONBLOCK).unwrap();
        let token = Token::Doorbell { device: 3, queue: 1 };
        poller.watch(&bell, token, Trigger::Edge).unwrap();
        let mut tokens = Vec::new();
        for _ in 0..3 {
            bell.write(1).unwrap();
            poller.wait(None, &mut tokens).unwrap();
            assert_eq!(tokens, [token]);
            poller.wait(Some(Instant::now()), &mut tokens).unwrap();
            assert_eq!(tokens, []);
        }
    }

    #[test]
    fn deadlines_are_rounded_up() {
        let now = Instant::now();
        assert_eq!(timeout(now, now), 0);
        assert_eq!(timeout(now + Duration::from_nanos(1), now), 1);
        assert_eq!(timeout(now + Duration::from_millis(7), now), 7);
        assert_eq!(timeout(now, now + Duration::from_secs(1)), 0);
    }

    proptest! {
        #[test]
        fn tokens_survive_their_numbers(device: u16, detail: u16) {
            for token in [
                Token::Controller,
                Token::Outcome,
                Token::SerialRoom,
                Token::ConsoleRoom,
                Token::Watchdog,
                Token::Doorbell { device, queue: detail },
                Token::Device { device, token: detail },
            ] {
                prop_assert_eq!(Token::decode(token.encode()), Some(token));
            }
        }
    }
}

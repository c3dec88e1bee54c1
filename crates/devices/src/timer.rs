//! A timer of a device's own, by which the event loop is woken once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that becomes readable when its time is over. Non-blocking, closed on exec.
#[derive(Debug)]
pub(crate) struct OneShotTimer(OwnedFd);

impl OneShotTimer {
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it readable after `time`, or never; forgets what was set before.
    pub(crate) fn arm(&self, time: Option<Duration>) {
        // Zero would be never.
        let time = time.map_or(Duration::ZERO, |time| time.max(Duration::from_nanos(1)));
        let once = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: once };
        // Refused are only nonsensical times.
        if let Err(error) = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &setting) {
            tracing::warn!(%error, "a device's timer could not be set");
        }
    }
}

//! An eventfd of a device's own, by which it or its back end wakes the event loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// A counter that is readable once it was rung. Non-blocking, closed on exec.
#[derive(Debug)]
pub(crate) struct WakeEvent(OwnedFd);

impl WakeEvent {
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable, and gives edge-triggered watchers a new edge.
    pub(crate) fn ring(&self) {
        loop {
            match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // Otherwise it fails only at a count of 2^64 - 2, and is readable then.
                _ => return,
            }
        }
    }

    /// Makes it unreadable; whether it was readable.
    pub(crate) fn take(&self) -> bool {
        loop {
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Err(Errno::INTR) => {}
                result => return result.is_ok(),
            }
        }
    }

    /// A second descriptor of the same counter, for another thread to ring.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl AsFd for WakeEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

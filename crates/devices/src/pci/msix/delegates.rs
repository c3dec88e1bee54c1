//! Sources of interrupts outside of this process, which signal a descriptor: the host kernel's network back end.
//!
//! A source signals the host's own descriptor of its vector while that is open, and one of this process's otherwise, so
//! that nothing raised under a mask is lost.
//!
//! ```text
//! vector open:   source ─→ the vector's descriptor ─→ the guest
//! masked or off: source ─→ missed ─→ pending bit, or delivered at the unmasking
//! ```

use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::ports::MessageInterrupts;

/// A source that can be told which descriptor to signal.
pub trait InterruptSource: Send {
    /// Makes the source signal `event`. Once this has returned, it signals no other.
    ///
    /// # Errors
    /// The host refused; it goes on as before.
    fn signal(&self, event: &EventFd) -> io::Result<()>;
}

/// One source and where it signals now.
pub(super) struct Delegate {
    /// The number by which the function refers to it.
    pub(super) number: usize,
    pub(super) vector: u16,
    source: Box<dyn InterruptSource>,
    missed: EventFd,
    is_direct: bool,
}

impl Delegate {
    /// A source whose signals are kept until [`Delegate::follow`].
    pub(super) fn new(number: usize, vector: u16, source: Box<dyn InterruptSource>) -> io::Result<Self> {
        let missed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        source.signal(&missed)?;
        Ok(Self { number, vector, source, missed, is_direct: false })
    }

    /// Makes the source signal the guest if the vector `is_open`, and this process otherwise.
    pub(super) fn follow(&mut self, is_open: bool, port: &dyn MessageInterrupts) -> io::Result<()> {
        if is_open && !self.is_direct {
            self.source.signal(port.event(self.vector)?)?;
            self.is_direct = true;
        } else if !is_open && self.is_direct {
            self.source.signal(&self.missed)?;
            self.is_direct = false;
        }
        Ok(())
    }

    /// Makes the source signal this process again, for another vector.
    pub(super) fn assign(&mut self, vector: u16) -> io::Result<()> {
        self.source.signal(&self.missed)?;
        self.is_direct = false;
        self.vector = vector;
        Ok(())
    }

    /// Whether it signalled this process since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.read().is_ok()
    }
}

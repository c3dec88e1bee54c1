//! When the power button of a guest that is to stop is pressed again, as a pure function of what its device tells.
//!
//! ```text
//!            not read                     read
//!   press ──────────────→ same press  ──────────→ another press, ever more seldom
//!             after 1, 2, 4, 4 … s      after 5, 10, 20 … s
//! ```
//!
//! - **Not read**: the guest's system does not take the event yet. Its interrupt came while it was masked, and an edge that
//!   comes then is lost. To press again is the same press, with another interrupt: nothing that the guest could count.
//! - **Read**: the kernel has it, but perhaps nobody listens there yet: a Linux kernel reads the event seconds before
//!   the program is started that acts on it. Another press is one that the guest sees as such. Systems that are going
//!   down ignore it.
//! - **Unknown**, of a machine whose host process does not tell: as if it was read.
//!
//! A guest that said that it is going down is left alone.

use std::time::Duration;

use tokio::time::Instant;
use vm_model::PowerButton;

/// The first pause before the interrupt of a press that the guest has not read is repeated; each is twice the one before.
const FIRST_REMINDER: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_REMINDER: Duration = Duration::from_secs(4);
/// The first pause before a guest that has read a press gets another one; each is twice the one before.
const FIRST_REPEAT: Duration = Duration::from_secs(5);
/// The longest of these pauses.
const LONGEST_REPEAT: Duration = Duration::from_secs(80);

/// How often the button was pressed in one stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presses {
    /// Presses that the guest can tell apart.
    presses: u32,
    /// How often the guest was interrupted for the latest of them.
    interrupts: u32,
    /// Whether the guest was seen to have read that one.
    is_read: bool,
    /// When it was last interrupted or, after that, seen to have read it.
    last: Instant,
}

impl Presses {
    /// The button was pressed for the first time at `now`.
    pub(super) fn begin(now: Instant) -> Self {
        Self { presses: 1, interrupts: 1, is_read: false, last: now }
    }

    /// The `button` is seen to be so at `now`. The pause before another press begins when the one before was read: some
    /// systems take two in a second for something else than one.
    pub(super) fn look(&mut self, button: PowerButton, now: Instant) {
        if button == PowerButton::Seen && !std::mem::replace(&mut self.is_read, true) {
            self.last = now;
        }
    }

    /// When to press again, if the `button` stays as it is; never where the guest `is_going` down by its own word.
    pub(super) fn next(&self, button: PowerButton, is_going: bool) -> Option<Instant> {
        let pause = match button {
            PowerButton::Pressed => doubled(FIRST_REMINDER, self.interrupts).min(LONGEST_REMINDER),
            PowerButton::Seen | PowerButton::Untouched => {
                doubled(FIRST_REPEAT, self.presses).min(LONGEST_REPEAT)
            }
        };
        (!is_going).then(|| self.last + pause)
    }

    /// The button was pressed again at `now`, having been as `button` says.
    pub(super) fn note(&mut self, button: PowerButton, now: Instant) {
        (self.last, self.is_read) = (now, false);
        match button {
            PowerButton::Pressed => self.interrupts = self.interrupts.saturating_add(1),
            PowerButton::Seen | PowerButton::Untouched => {
                self.presses = self.presses.saturating_add(1);
                self.interrupts = 1;
            }
        }
    }
}

/// `first` after one time, twice that after two, and so on; long before a clock overflows it grows no more.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16))
}

#[cfg(test)]
mod tests;

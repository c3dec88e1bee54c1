//! How a machine's owner takes part in its event loop: it is woken by a descriptor or a deadline, receives events, and
//! says whether the machine goes on.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use vm_model::{DiskTrouble, GuestPanic};

use super::{Machine, TurnReport};

/// Whether the event loop goes on, as a controller decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Go on.
    Continue,
    /// End the machine now.
    Kill,
}

/// What happens to a machine. Each event comes once, but for [`MachineEvent::ConsoleRoom`],
/// [`MachineEvent::DiskTrouble`] and [`MachineEvent::PowerButtonSeen`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The first vCPU was entered for the first time.
    FirstEntry {
        /// The instant before its first instruction.
        at: Instant,
    },
    /// The guest wrote to a recorded console, its serial port or its virtio console, for the first time.
    FirstConsoleByte {
        /// The instant of the first byte.
        at: Instant,
    },
    /// The guest's kernel reports that it panicked. A machine whose guest panicked goes on until it is ended.
    GuestPanicked(GuestPanic),
    /// The host cannot carry out what the guest asks of a disk, and the machine's vCPUs wait until it can; `None` when all
    /// went through.
    DiskTrouble(Option<DiskTrouble>),
    /// The guest has read all presses of its power button until now.
    PowerButtonSeen,
    /// The console takes input again after [`Machine::write_console`] took less than it was given.
    ConsoleRoom,
}

/// A machine's owner, called by [`Machine::run`] on its thread. No method may block.
pub trait Controller {
    /// Readable when [`Controller::woken`] should be called; the same descriptor throughout a run.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// The wake descriptor is readable. Must drain it, or it is called again at once.
    fn woken(&mut self, machine: &mut Machine) -> Flow;

    /// When [`Controller::deadline_passed`] should be called; asked before each wait.
    fn next_deadline(&self) -> Option<Instant>;

    /// The deadline of [`Controller::next_deadline`] has passed. Must move it, or it is called again at once.
    fn deadline_passed(&mut self, machine: &mut Machine) -> Flow;

    /// Receives an event of the machine, in the turn in which the loop finds it.
    fn event(&mut self, event: MachineEvent);

    /// A turn of the event loop begins: there is something to serve. Every other method but
    /// [`Controller::next_deadline`] is called within a turn, or after the last one.
    fn turning(&mut self) {}

    /// The turn is over. One in which the machine's own code panicked is never over.
    fn turned(&mut self, turn: TurnReport<'_>) {
        let _ = turn;
    }
}

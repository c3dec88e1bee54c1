//! What hosting needs of a machine, and no more: built on its thread, driven from its own event loop, disposed
//! of elsewhere.
//!
//! [`kvm`] provides it over the `vmm` crate and is the one file that knows that crate. Tests provide
//! machines that misbehave on purpose.

#[cfg(test)]
pub(crate) mod fake;
mod kvm;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use console_log::ConsoleWriter;
use machine_host::{CountersSource, LaunchFailure};
use vm_model::{
    Bytes, DiskTrouble, FailureKind, GuestPanic, InitialState, LinkState, MachineExit, MachineSpec, VcpuDump,
    error_chain,
};

use crate::error::Cause;

pub(crate) use kvm::KvmEngine;

/// Builds machines. Shared by all machine threads.
pub(crate) trait Engine: Send + Sync {
    /// Builds the machine that `spec` describes, on the thread that will drive it.
    fn build(
        &self,
        spec: MachineSpec<OwnedFd>,
        surroundings: Surroundings,
    ) -> Result<Box<dyn Machine>, BuildFailure>;
}

/// What a machine is given beside its description.
pub(crate) struct Surroundings {
    /// Whose it is, for the names of its threads and for messages.
    pub(crate) name: String,
    /// Where its console goes.
    pub(crate) console: ConsoleWriter,
}

/// Why there is no machine.
#[derive(Debug)]
pub(crate) struct BuildFailure {
    pub(crate) kind: FailureKind,
    pub(crate) cause: Cause,
}

impl From<BuildFailure> for LaunchFailure {
    fn from(failure: BuildFailure) -> Self {
        Self::Build { kind: failure.kind, reason: error_chain(failure.cause.as_ref()) }
    }
}

/// One machine. Stays on its thread until it is turned into what remains of it.
pub(crate) trait Machine {
    /// Its counters, to be read from any thread.
    fn counters(&self) -> Box<dyn CountersSource>;

    /// Readies it for [`Machine::run`]; called once. With [`InitialState::Paused`] its vCPUs are parked when this returns.
    fn start(&mut self, initial: InitialState) -> Result<(), Cause>;

    /// Runs it until it ends; called once. Everything that happens meanwhile is told to `driver`, on this thread.
    fn run(&mut self, driver: &mut dyn Driver) -> MachineExit;

    /// What may be done to it before it was started; while it runs, its driver is handed this.
    fn controls(&mut self) -> &mut dyn Controls;

    /// Whether nothing of it goes on by itself, once [`Machine::run`] has returned: no thread was left behind, and no I/O
    /// may still change a disk.
    fn is_settled(&self) -> bool;

    /// Ends its vCPUs if they still run. The answer is left to be dropped, on another thread: closing a machine
    /// takes long.
    fn into_remains(self: Box<Self>) -> Box<dyn Remains>;
}

/// What is left of an ended machine.
pub(crate) trait Remains: Send {
    /// Waits until no I/O of it is in flight, at most until `deadline`.
    fn settle(&mut self, deadline: Instant) -> Result<(), Unsettled>;
}

/// I/O of an ended machine is still in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// On which device.
    pub(crate) device: String,
}

/// Drives a running machine: called from its event loop, it decides whether the machine goes on.
pub(crate) trait Driver {
    /// Becomes readable when [`Driver::woken`] is to be called.
    fn wake_fd(&self) -> BorrowedFd<'_>;
    /// [`Driver::wake_fd`] was readable.
    fn woken(&mut self, controls: &mut dyn Controls) -> Flow;
    /// Something happened to the machine.
    fn event(&mut self, event: Event);
    /// The machine's event loop has something to serve; all of the above is told within a turn, or after the last one.
    fn turning(&mut self);
    /// It has served that.
    fn turned(&mut self, turn: &TurnReport<'_>);
}

/// One turn of a machine's event loop.
pub(crate) struct TurnReport<'machine> {
    /// How long it took.
    pub(crate) took: Duration,
    /// What took longest in it, whatever the engine calls that.
    pub(crate) slowest: &'machine dyn fmt::Display,
    /// How long that took.
    pub(crate) slowest_took: Duration,
}

/// What a driver may do to its machine, while it runs.
pub(crate) trait Controls {
    fn pause(&mut self, within: Duration) -> Result<(), Cause>;
    fn resume(&mut self) -> Result<(), Cause>;
    fn press_power_button(&mut self) -> Result<(), Cause>;
    fn set_balloon(&mut self, size: Bytes) -> Result<(), Cause>;
    fn set_link(&mut self, nic: &str, link: LinkState) -> Result<(), Cause>;
    fn announce(&mut self, nic: &str) -> Result<(), Cause>;
    /// How many of `bytes`, from the front, the console had room for.
    fn write_console(&mut self, bytes: &[u8]) -> usize;
    /// Queues a non-maskable interrupt on each vCPU.
    fn inject_nmi(&mut self, within: Duration) -> Result<(), Cause>;
    /// Where each vCPU is.
    fn dump_vcpus(&mut self, within: Duration) -> Result<Vec<VcpuDump>, Cause>;
    fn resize_console(&mut self, columns: u16, rows: u16) -> Result<(), Cause>;
}

/// Whether the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// End it; [`Machine::run`] then answers [`MachineExit::Killed`].
    Kill,
}

/// What happens to a machine, once after each start or reset in place unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its first vCPU was about to run its first instruction.
    FirstEntry {
        /// The instant before that instruction.
        at: Instant,
    },
    /// Its guest wrote to its console.
    FirstConsoleByte {
        /// The instant of the first byte.
        at: Instant,
    },
    /// Its guest's kernel panicked.
    GuestPanicked(GuestPanic),
    /// The host cannot carry out requests to a disk, or can again. As often as that is so.
    DiskTrouble(Option<DiskTrouble>),
    /// Its guest has read all presses of its power button until now. As often as that is so.
    PowerButtonSeen,
}

//! A machine, whole: built from its description, started, run by an event loop, and taken apart.
//!
//! ```text
//! build ──→ Built ──start──→ Started ──run: the guest, a device or the controller ends it──→ Ended ──→ Remains
//! ```
//!
//! Everything here happens on one thread, the machine's own, but for its vCPUs' threads and the devices' register
//! accesses on them. A machine may be dropped in any state: its threads are ended and joined first.

mod build;
mod console;
mod controller;
mod counters;
mod diagnosis;
mod disks;
mod error;
mod nics;
mod options;
mod pausing;
mod platform;
mod run;
mod trouble;
mod turn_report;
mod virtio;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::memory::GuestMemory;
use devices::virtio::console::ConsoleSize;
use hypervisor::{Hypervisor, Vcpu, Vm};
use vm_memory::{Bytes as _, GuestAddress};
use vm_model::{Bytes, GuestPanic, InitialState, LinkState, MachineCounters, MachineSpec, SerialMode};

pub use controller::{Controller, Flow, MachineEvent};
pub use counters::CountersHandle;
pub use diagnosis::DiagnosisError;
pub use error::{BalloonChangeError, BuildError, LinkChangeError, NoConsole, PauseError, ProcessorsError};
pub use options::BuildOptions;
pub use turn_report::{Handler, TurnReport};

use crate::generation::{GenerationChangeError, GenerationId};
use crate::layout;
use crate::outcome::Outcome;
use crate::poller::Poller;
use crate::vcpu::{RunRequest, RunningVcpus, StartError, VcpuContext};
use counters::CounterSources;
use platform::Platform;
use trouble::Trouble;
use virtio::VirtioDevices;

/// How long vCPU threads, and after them I/O in flight, may take to end. vCPUs leave the guest at a kick; only a host
/// in trouble keeps one longer.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Where a machine is in its life.
enum Phase {
    Built { vcpus: Vec<Vcpu> },
    Started { vcpus: RunningVcpus, paused: bool },
    Ended,
}

/// One virtual machine.
///
/// Fields are dropped in this order: what runs the guest first, what it runs on last.
pub struct Machine {
    phase: Phase,
    poller: Poller,
    context: VcpuContext,
    platform: Platform,
    virtio: VirtioDevices,
    devices_ended: bool,
    /// Whether all threads and I/O that were ended have come to rest.
    settled: bool,
    outcome: Arc<Outcome>,
    told: Told,
    /// There while a disk keeps requests that the host cannot carry out, and vCPUs wait for it.
    trouble: Option<Trouble>,
    counters: Arc<CounterSources>,
    memory: Arc<GuestMemory>,
    vm: Arc<Vm>,
}

/// Which events the controller has received.
#[derive(Default)]
struct Told {
    first_entry: bool,
    first_console_byte: bool,
    guest_panic: Option<GuestPanic>,
}

impl Machine {
    /// Builds the machine that `spec` describes, ready to start. Call it on the thread that will run it.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing is left of the machine then.
    pub fn build(
        hypervisor: &Hypervisor,
        spec: MachineSpec<OwnedFd>,
        options: BuildOptions,
    ) -> Result<Self, BuildError> {
        build::build(hypervisor, spec, options)
    }

    /// Starts the vCPU threads. With [`InitialState::Paused`] they wait for [`Machine::resume`] before their first
    /// instruction.
    ///
    /// # Errors
    /// The machine was started before, or the host gives no thread; it has ended then.
    pub fn start(&mut self, initial: InitialState) -> Result<(), StartError> {
        let Phase::Built { vcpus } = &mut self.phase else {
            return Err(StartError::Started);
        };
        let vcpus = std::mem::take(vcpus);
        self.phase = Phase::Ended;
        let (run, paused) = match initial {
            InitialState::Running => (RunRequest::Run, false),
            InitialState::Paused => (RunRequest::Park, true),
        };
        let vcpus = RunningVcpus::start(vcpus, &self.counters.vcpus, &self.context, run)?;
        self.phase = Phase::Started { vcpus, paused };
        Ok(())
    }

    /// Presses the guest's ACPI power button. The guest may ignore it; [`MachineEvent::PowerButtonSeen`] tells that it has
    /// read the event. Pressing it again before that is the same press, which the guest is interrupted for again.
    pub fn press_power_button(&self) {
        if let Err(error) = self.platform.event_device.press_power_button() {
            tracing::warn!(vm_id = self.context.name, %error, "the power button's interrupt was refused");
        }
    }

    /// Gives the machine another generation identifier and tells the guest: for a machine that continues
    /// from a saved state from which another machine may continue too. The guest of a paused machine sees it when it is
    /// resumed.
    ///
    /// Each machine that is built has an identifier of its own from the start.
    ///
    /// # Errors
    /// See [`GenerationChangeError`].
    pub fn change_generation(&mut self) -> Result<GenerationId, GenerationChangeError> {
        let id = GenerationId::random().map_err(GenerationChangeError::Random)?;
        let address = layout::GENERATION_ID;
        self.memory
            .write_slice(&id.bytes(), GuestAddress(address))
            .map_err(|source| GenerationChangeError::Write { address, source })?;
        self.platform.event_device.announce_generation().map_err(GenerationChangeError::Event)?;
        Ok(id)
    }

    /// Queues `bytes` as console input and returns the number taken. After fewer than all, [`MachineEvent::ConsoleRoom`] tells when to
    /// try again.
    ///
    /// They go to the serial port if that is recorded or there is nothing else, and to the virtio console otherwise.
    pub fn write_console(&mut self, bytes: &[u8]) -> usize {
        match self.platform.serial_mode {
            SerialMode::Null if self.virtio.has_console() => self.virtio.write_console(bytes),
            SerialMode::Console | SerialMode::Null => self.platform.serial.enqueue(bytes),
        }
    }

    /// Changes the size of the virtio console, in characters, and notifies the guest.
    ///
    /// # Errors
    /// There is no virtio console.
    pub fn resize_console(&mut self, columns: u16, rows: u16) -> Result<(), NoConsole> {
        self.virtio.resize_console(ConsoleSize { columns, rows })
    }

    /// Asks the guest to give up `size` of its memory from now on; whether and when it does is
    /// seen in the counters.
    ///
    /// # Errors
    /// There is no balloon, or the guest does not have that much.
    pub fn set_balloon(&self, size: Bytes) -> Result<(), BalloonChangeError> {
        self.virtio.set_balloon(size)
    }

    /// Takes the link of interface `nic` up or down, and tells the guest.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn set_link(&self, nic: &str, link: LinkState) -> Result<(), LinkChangeError> {
        self.virtio.set_link(nic, link)
    }

    /// Asks the guest to announce its addresses on the network behind interface `nic`.
    ///
    /// # Errors
    /// There is no such interface, or its driver does not know how.
    pub fn announce(&self, nic: &str) -> Result<(), LinkChangeError> {
        self.virtio.announce(nic)
    }

    /// What the machine has used until now.
    #[must_use]
    pub fn counters(&self) -> MachineCounters {
        self.counters.read()
    }

    /// A way to read the counters from other threads.
    #[must_use]
    pub fn counters_handle(&self) -> CountersHandle {
        CountersHandle::new(&self.counters)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether nothing of an ended machine goes on by itself: no vCPU thread was left behind, and no I/O is in flight
    /// that may still change a disk. Its disks may not be used for anything else before that.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Ended) && self.devices_ended && self.settled
    }

    /// Ends the vCPUs and resets the devices. Idempotent; a step that failed is not tried again.
    fn end(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if let Phase::Started { mut vcpus, .. } = phase
            && !vcpus.end(Instant::now() + END_PATIENCE)
        {
            self.settled = false;
            tracing::error!(vm_id = self.context.name, "not all vCPU threads ended");
        }
        if !std::mem::replace(&mut self.devices_ended, true) {
            self.settled &= self.virtio.end(Instant::now() + END_PATIENCE);
        }
    }

    /// Takes an ended machine's remains: what is costly to release. A running machine is ended first.
    pub fn into_remains(mut self) -> Remains {
        self.end();
        Remains { machine: self }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is left of an ended machine: its mappings, descriptors and the kernel's side of it. Dropping it releases them,
/// which can take tens of milliseconds: drop it on a thread that no caller waits for.
#[must_use = "dropping it here is what it is meant to avoid"]
pub struct Remains {
    machine: Machine,
}

/// I/O of an ended machine is still in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The first device that has some.
    pub device: String,
}

impl Remains {
    /// Waits until no I/O of the machine is in flight: until then it may still change a disk, and nobody else may use
    /// that. Dropping the remains before does not wait, and leaves the memory mapped that such I/O may touch.
    ///
    /// # Errors
    /// There was some at `deadline`. Ask again for as long as it takes.
    pub fn settle(&mut self, deadline: Instant) -> Result<(), Unsettled> {
        self.machine.virtio.settle(deadline).map_err(|device| Unsettled { device })
    }
}

impl std::fmt::Debug for Remains {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remains").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phase = match &self.phase {
            Phase::Built { .. } => "built",
            Phase::Started { paused: false, .. } => "running",
            Phase::Started { paused: true, .. } => "paused",
            Phase::Ended => "ended",
        };
        formatter
            .debug_struct("Machine")
            .field("name", &self.context.name)
            .field("phase", &phase)
            .field("vm", &self.vm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

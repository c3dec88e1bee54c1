//! Machines of the `vmm` crate. The one file that knows it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use console_log::ConsoleWriter;
use hypervisor::Hypervisor;
use machine_host::CountersSource;
use vm_model::{Bytes, InitialState, LinkState, MachineCounters, MachineExit, MachineSpec, VcpuDump};

use super::{
    BuildFailure, Controls, Driver, Engine, Event, Flow, Machine, Remains, Surroundings, TurnReport,
    Unsettled,
};
use crate::error::Cause;

/// The longest that the event loop may be kept from everything else by vCPUs that do not park.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// As [`LONGEST_PAUSE`], by vCPUs that do not answer.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Builds machines on KVM.
pub(crate) struct KvmEngine {
    hypervisor: Hypervisor,
}

impl KvmEngine {
    pub(crate) fn new(hypervisor: Hypervisor) -> Self {
        Self { hypervisor }
    }

    fn build_with(
        &self,
        spec: MachineSpec<OwnedFd>,
        options: vmm::BuildOptions,
    ) -> Result<Box<dyn Machine>, BuildFailure> {
        let machine = vmm::Machine::build(&self.hypervisor, spec, options)
            .map_err(|error| BuildFailure { kind: error.failure_kind(), cause: error.into() })?;
        Ok(Box::new(KvmMachine(machine)))
    }
}

impl Engine for KvmEngine {
    fn build(
        &self,
        spec: MachineSpec<OwnedFd>,
        surroundings: Surroundings,
    ) -> Result<Box<dyn Machine>, BuildFailure> {
        let options = vmm::BuildOptions::new(surroundings.name, Box::new(Sink(surroundings.console)));
        self.build_with(spec, options)
    }
}

struct KvmMachine(vmm::Machine);

impl Machine for KvmMachine {
    fn counters(&self) -> Box<dyn CountersSource> {
        Box::new(Counters(self.0.counters_handle()))
    }

    fn start(&mut self, initial: InitialState) -> Result<(), Cause> {
        Ok(self.0.start(initial)?)
    }

    fn run(&mut self, driver: &mut dyn Driver) -> MachineExit {
        self.0.run(&mut Relay(driver))
    }

    fn controls(&mut self) -> &mut dyn Controls {
        &mut self.0
    }

    fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    fn into_remains(self: Box<Self>) -> Box<dyn Remains> {
        Box::new(self.0.into_remains())
    }
}

impl Remains for vmm::Remains {
    fn settle(&mut self, deadline: Instant) -> Result<(), Unsettled> {
        vmm::Remains::settle(self, deadline).map_err(|vmm::Unsettled { device }| Unsettled { device })
    }
}

/// Where the counters of one machine are read.
struct Counters(vmm::CountersHandle);

impl CountersSource for Counters {
    fn read(&self) -> MachineCounters {
        // Gone only after the last reading was kept.
        self.0.read().unwrap_or_default()
    }
}

/// Where a machine's devices write what its guest says.
struct Sink(ConsoleWriter);

impl devices::serial::ConsoleSink for Sink {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

/// Passes on what the event loop of `vmm` asks and tells.
struct Relay<'a>(&'a mut dyn Driver);

impl vmm::Controller for Relay<'_> {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake_fd()
    }

    fn woken(&mut self, machine: &mut vmm::Machine) -> vmm::Flow {
        match self.0.woken(machine) {
            Flow::Continue => vmm::Flow::Continue,
            Flow::Kill => vmm::Flow::Kill,
        }
    }

    /// Deadlines are kept by those who ask, not on machines' threads.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn deadline_passed(&mut self, _machine: &mut vmm::Machine) -> vmm::Flow {
        vmm::Flow::Continue
    }

    fn turning(&mut self) {
        self.0.turning();
    }

    fn turned(&mut self, turn: vmm::TurnReport<'_>) {
        let vmm::TurnReport { took, slowest, slowest_took } = turn;
        self.0.turned(&TurnReport { took, slowest: &slowest, slowest_took });
    }

    fn event(&mut self, event: vmm::MachineEvent) {
        match event {
            vmm::MachineEvent::FirstEntry { at } => self.0.event(Event::FirstEntry { at }),
            vmm::MachineEvent::FirstConsoleByte { at } => self.0.event(Event::FirstConsoleByte { at }),
            vmm::MachineEvent::GuestPanicked(panic) => self.0.event(Event::GuestPanicked(panic)),
            vmm::MachineEvent::DiskTrouble(trouble) => self.0.event(Event::DiskTrouble(trouble)),
            vmm::MachineEvent::PowerButtonSeen => self.0.event(Event::PowerButtonSeen),
            // The reply to each write says how much was taken; the caller may write the rest again.
            vmm::MachineEvent::ConsoleRoom => {}
        }
    }
}

impl Controls for vmm::Machine {
    fn pause(&mut self, within: Duration) -> Result<(), Cause> {
        // The command may be from elsewhere: no duration may overflow the clock.
        Ok(vmm::Machine::pause(self, Instant::now() + within.min(LONGEST_PAUSE))?)
    }

    fn resume(&mut self) -> Result<(), Cause> {
        vmm::Machine::resume(self);
        Ok(())
    }

    fn press_power_button(&mut self) -> Result<(), Cause> {
        vmm::Machine::press_power_button(self);
        Ok(())
    }

    fn set_balloon(&mut self, size: Bytes) -> Result<(), Cause> {
        Ok(vmm::Machine::set_balloon(self, size)?)
    }

    fn set_link(&mut self, nic: &str, link: LinkState) -> Result<(), Cause> {
        Ok(vmm::Machine::set_link(self, nic, link)?)
    }

    fn announce(&mut self, nic: &str) -> Result<(), Cause> {
        Ok(vmm::Machine::announce(self, nic)?)
    }

    fn write_console(&mut self, bytes: &[u8]) -> usize {
        vmm::Machine::write_console(self, bytes)
    }

    fn inject_nmi(&mut self, within: Duration) -> Result<(), Cause> {
        Ok(vmm::Machine::inject_nmi(self, Instant::now() + within.min(LONGEST_LOOK))?)
    }

    fn dump_vcpus(&mut self, within: Duration) -> Result<Vec<VcpuDump>, Cause> {
        Ok(vmm::Machine::dump_vcpus(self, Instant::now() + within.min(LONGEST_LOOK))?)
    }

    fn resize_console(&mut self, columns: u16, rows: u16) -> Result<(), Cause> {
        Ok(vmm::Machine::resize_console(self, columns, rows)?)
    }
}

#[cfg(test)]
mod tests;

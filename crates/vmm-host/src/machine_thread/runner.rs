//! Runs one machine after the other in the same place: builds it, starts it, runs it, and rebuilds it as often as its
//! resets are carried out in place. `renewal` decides when they are.
//!
//! The old machine is gone, all of it, before the next is built: the host may not have its memory twice, and sockets and
//! TAPs are one machine's. What they share is in descriptors that were duplicated at the start.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use console_log::{ConsoleWriter, KernelPanic, PANIC_LINES};
use fail_points::{FailPoint, pass};
use machine_host::LaunchFailure;
use vm_model::{BootIdentities, InitialState, MachineExit, MachinePhase, MachineSpec, ResetPolicy};

use super::boot_files::BootFiles;
use super::driver::MachineDriver;
use super::renewal::{BootFilesState, Button, Ending, GuestHealth, Renewal, Rest, Verdict};
use crate::counters::CountersCell;
use crate::engine::{Engine, Machine, Surroundings};
use crate::error::not_started;

/// The present machine, if there is one.
pub(crate) type Place = Option<Box<dyn Machine>>;

/// How the first machine is made and begins, and what follows its guest's resets.
pub(crate) struct FirstMachine {
    pub(crate) spec: MachineSpec<OwnedFd>,
    /// What it boots from was this when it was verified.
    pub(crate) verified: Option<BootIdentities>,
    pub(crate) initial: InitialState,
    pub(crate) resets: ResetPolicy,
}

/// Runs the machines of one place. Its fields are what they have in common.
pub(crate) struct MachineRunner {
    pub(crate) name: String,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) console: ConsoleWriter,
    pub(crate) counters: Arc<CountersCell>,
}

impl MachineRunner {
    /// Runs machines until one ends that no other follows. That one is left in `place`, and so is one whose code panics.
    pub(crate) fn run(
        &self,
        first: FirstMachine,
        place: &mut Place,
        driver: &mut MachineDriver,
    ) -> Result<MachineExit, LaunchFailure> {
        let FirstMachine { mut spec, verified, mut initial, resets } = first;
        driver.boot_files = BootFiles::of(&spec.boot, verified.as_ref())?;
        let mut renewal = Renewal::of(&spec, resets)?;
        loop {
            let machine = place.insert(self.build(spec)?).as_mut();
            driver.boot_files.check()?;
            self.counters.begin(machine.counters());
            let exit = drive(machine, initial, driver)?;
            let Some(renewal) = renewal.as_mut().filter(|_| !driver.inbox.is_killed()) else {
                return Ok(exit);
            };
            let ending = self.ending(exit, machine, driver);
            let by = match renewal.verdict(ending, Instant::now()) {
                Verdict::Final(exit) => return Ok(exit),
                Verdict::Again { by, initial: next } => {
                    initial = next;
                    by
                }
            };
            tracing::info!(vm_id = %driver.id, ?by, ?initial, "the machine is rebuilt in place");
            driver.begin_again(by, self.console.begin_boot());
            self.counters.carry_over();
            drop(place.take().map(Machine::into_remains));
            if driver.inbox.is_killed() {
                return Ok(MachineExit::Killed);
            }
            spec = renewal.copy()?;
        }
    }

    fn build(&self, spec: MachineSpec<OwnedFd>) -> Result<Box<dyn Machine>, LaunchFailure> {
        pass(FailPoint::MachineBuilding);
        let surroundings = Surroundings { name: self.name.clone(), console: self.console.clone() };
        Ok(self.engine.build(spec, surroundings)?)
    }

    fn ending(&self, exit: MachineExit, machine: &dyn Machine, driver: &MachineDriver) -> Ending {
        let (phase, reported, console_start) = {
            let status = driver.status.borrow();
            (status.phase.clone(), status.panic, status.console_start)
        };
        // Lines before the latest rebuild are not this guest's.
        let said = || KernelPanic::find(&self.console.tail_lines_since(console_start, PANIC_LINES)).is_some();
        let boot_files = match driver.boot_files.difference() {
            None => BootFilesState::AsVerified,
            Some(changed) => {
                tracing::warn!(vm_id = %driver.id, changed, "the machine is not rebuilt in place");
                BootFilesState::Changed
            }
        };
        let panicked = reported.is_some() || matches!(exit, MachineExit::Reset(_)) && said();
        Ending {
            exit,
            phase,
            button: if driver.button.is_some() { Button::Pressed } else { Button::NotPressed },
            guest: if panicked { GuestHealth::Panicked } else { GuestHealth::Well },
            rest: if machine.is_settled() { Rest::Settled } else { Rest::Unsettled },
            boot_files,
        }
    }
}

fn drive(
    machine: &mut dyn Machine,
    initial: InitialState,
    driver: &mut MachineDriver,
) -> Result<MachineExit, LaunchFailure> {
    if driver.inbox.is_killed() {
        return Ok(MachineExit::Killed);
    }
    driver.orders.repeat(machine.controls()).map_err(not_started)?;
    machine.start(initial).map_err(not_started)?;
    if initial == InitialState::Paused {
        driver.announce(MachinePhase::Paused);
    }
    Ok(machine.run(driver))
}

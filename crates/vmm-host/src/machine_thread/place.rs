//! Runs the machines of one place, one after the other, each on a thread of its own: a thread builds a machine, starts its
//! guest, gives up what building took of the host, and serves the guest until it ends. `renewal` decides whether another
//! follows; the reaper starts its thread, because this one may start none any more.
//!
//! The old machine is gone, all of it, before the next is built: the host may not have its memory twice, and sockets and
//! TAPs are one machine's. What they share is in descriptors that were duplicated at the start.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use console_log::{ConsoleWriter, FileRegistration, KernelPanic, PANIC_LINES};
use fail_points::{FailPoint, pass};
use machine_host::LaunchFailure;
use syscall_filter::ThreadKind;
use vm_model::{BootIdentities, FailureKind, InitialState, MachineExit, MachinePhase, MachineSpec, VmId};

use super::boot_files::BootFiles;
use super::driver::MachineDriver;
use super::renewal::{BootFilesState, Button, Ending, GuestHealth, Renewal, Rest, Verdict};
use crate::containment::contain;
use crate::counters::CountersCell;
use crate::engine::{Engine, Machine, Remains, Surroundings};
use crate::error::not_started;
use crate::handover::{EndedMachine, ReleaseSignal, ToReaper};

/// The machine that a thread runs, if it is built.
type Slot = Option<Box<dyn Machine>>;

/// What the machines of one place have in common.
pub(crate) struct MachinePlace {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) console: ConsoleWriter,
    pub(super) counters: Arc<CountersCell>,
    pub(super) driver: MachineDriver,
    /// The console's files, where a directory for them was given.
    pub(super) files: Option<FileRegistration>,
    /// Who runs the VM.
    pub(super) lock: Option<OwnedFd>,
    pub(super) reaper: ToReaper,
    pub(super) release: ReleaseSignal,
}

/// What a thread begins with.
pub(super) enum Beginning {
    /// The first machine of its place.
    First {
        spec: Box<MachineSpec<OwnedFd>>,
        /// What it boots from was this when it was verified.
        verified: Option<BootIdentities>,
        initial: InitialState,
    },
    /// Another one.
    Next {
        renewal: Box<Renewal>,
        initial: InitialState,
        /// What is left of the one before.
        before: Option<Box<dyn Remains>>,
    },
}

/// What comes after a machine.
enum After {
    Nothing(MachineExit),
    Another { renewal: Box<Renewal>, initial: InitialState },
}

/// A machine that is to begin on a thread of its own, in the place of one that has ended.
pub(crate) struct NextMachine {
    place: MachinePlace,
    renewal: Box<Renewal>,
    initial: InitialState,
    before: Option<Box<dyn Remains>>,
}

impl NextMachine {
    /// Whose it is.
    pub(crate) fn id(&self) -> &VmId {
        &self.place.driver.id
    }

    /// Runs the thread to its end, once `before`, that of the machine before, has come to its own.
    pub(crate) fn run(self, before: Option<JoinHandle<()>>) {
        syscall_filter::enter(ThreadKind::Machine, self.id().as_str());
        let _about = tracing::info_span!("machine", vm_id = %self.id()).entered();
        if before.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the machine before panicked outside of its containment");
        }
        let Self { place, renewal, initial, before } = self;
        place.run(Beginning::Next { renewal, initial, before });
    }

    /// The place's end, as there is no thread for the next machine.
    pub(crate) fn give_up(self, error: &io::Error) -> (EndedMachine, ToReaper) {
        let reason = format!("a thread that would rebuild it after its reset cannot be started: {error}");
        let failure = LaunchFailure::Build { kind: FailureKind::Host, reason };
        self.place.end(Err(failure), self.before)
    }
}

impl MachinePlace {
    /// Runs one machine to its end, and hands over what is left of it, or the place to the next one.
    pub(super) fn run(mut self, beginning: Beginning) {
        let mut slot = None;
        // An outer slot keeps the machine out of an unwinding: closing it belongs to the reaper.
        let outcome = contain(|| self.run_machine(beginning, &mut slot))
            .unwrap_or_else(|panic| Err(LaunchFailure::Panicked(panic)));
        // Ends the vCPUs where a panic left them running: "exited" is to mean that nothing of the guest runs.
        let remains = contain(|| slot.map(Machine::into_remains));
        let reaper = self.reaper.clone();
        match (outcome, remains) {
            (Ok(After::Another { renewal, initial }), Ok(before)) => {
                reaper.begin_next(NextMachine { place: self, renewal, initial, before });
            }
            (Ok(After::Another { .. }), Err(panic)) => {
                hand_over(self.end(Err(LaunchFailure::Panicked(panic)), None));
            }
            (Ok(After::Nothing(exit)), remains) => {
                let remains = self.or_nothing(remains);
                hand_over(self.end(Ok(exit), remains));
            }
            (Err(failure), remains) => {
                let remains = self.or_nothing(remains);
                hand_over(self.end(Err(failure), remains));
            }
        }
    }

    /// `remains`, or a word that they are lost.
    fn or_nothing(&self, remains: Result<Option<Box<dyn Remains>>, String>) -> Option<Box<dyn Remains>> {
        remains.unwrap_or_else(|panic| {
            tracing::error!(vm_id = %self.driver.id, panic, "taking the machine apart failed");
            None
        })
    }

    /// Runs one machine, which is left in `slot`, also where its code panics.
    fn run_machine(&mut self, beginning: Beginning, slot: &mut Slot) -> Result<After, LaunchFailure> {
        let (spec, renewal, initial) = match beginning {
            Beginning::First { spec, verified, initial } => {
                self.driver.boot_files = BootFiles::of(&spec.boot, verified.as_ref())?;
                let renewal = Renewal::of(&spec, self.driver.resets)?.map(Box::new);
                (*spec, renewal, initial)
            }
            Beginning::Next { renewal, initial, before } => {
                drop(before);
                if self.driver.inbox.is_killed() {
                    return Ok(After::Nothing(MachineExit::Killed));
                }
                (renewal.copy()?, Some(renewal), initial)
            }
        };
        let machine = slot.insert(self.build(spec)?).as_mut();
        self.driver.boot_files.check()?;
        self.counters.begin(machine.counters());
        let exit = drive(machine, initial, &mut self.driver)?;
        let Some(mut renewal) = renewal.filter(|_| !self.driver.inbox.is_killed()) else {
            return Ok(After::Nothing(exit));
        };
        let ending = self.ending(exit, machine);
        let (by, initial) = match renewal.verdict(ending, Instant::now()) {
            Verdict::Final(exit) => return Ok(After::Nothing(exit)),
            Verdict::Again { by, initial } => (by, initial),
        };
        tracing::info!(vm_id = %self.driver.id, ?by, ?initial, "the machine is rebuilt in place");
        self.driver.begin_again(by, self.console.begin_boot());
        self.counters.carry_over();
        Ok(After::Another { renewal, initial })
    }

    fn build(&self, spec: MachineSpec<OwnedFd>) -> Result<Box<dyn Machine>, LaunchFailure> {
        pass(FailPoint::MachineBuilding);
        let surroundings =
            Surroundings { name: self.driver.id.as_str().to_owned(), console: self.console.clone() };
        Ok(self.engine.build(spec, surroundings)?)
    }

    fn ending(&self, exit: MachineExit, machine: &dyn Machine) -> Ending {
        let driver = &self.driver;
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

/// The last act of a thread that no other follows.
fn hand_over((ended, reaper): (EndedMachine, ToReaper)) {
    reaper.hand_over(ended);
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
    // Its guest reaches this thread from the first device on that the thread serves.
    syscall_filter::narrow(ThreadKind::EventLoop, driver.id.as_str());
    Ok(machine.run(driver))
}

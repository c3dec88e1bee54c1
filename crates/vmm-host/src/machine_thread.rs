//! What a machine's thread does: runs its machine and those that follow it in place (`runner`), publishes how the last
//! one ended, and hands over what is left.

mod admission;
mod boot_files;
mod driver;
mod renewal;
mod runner;
mod slow_turns;
mod standing_orders;

use std::sync::Arc;
use std::time::{Duration, Instant};

use console_log::{ConsoleFileWriter, ConsoleWriter, FileRegistration};
use machine_host::{LaunchFailure, LaunchRequest};
use syscall_filter::ThreadKind;
use tokio::sync::watch;
use vm_model::{MachineExit, MachinePhase, MachineStatus, VmId};

use crate::containment::contain;
use crate::counters::CountersCell;
use crate::engine::{Engine, Machine};
use crate::error::exit_of;
use crate::handover::{EndedMachine, ReleaseSignal, ToReaper};
use crate::heartbeat::Heartbeat;
use crate::launch::LaunchSignal;
use crate::mailbox::Inbox;
use boot_files::BootFiles;
use driver::MachineDriver;
use runner::{FirstMachine, MachineRunner};
use slow_turns::SlowTurns;
use standing_orders::StandingOrders;

/// Threads' names are cut by the kernel after so many bytes.
const THREAD_NAME_BYTES: usize = 15;

/// How long an ended machine waits until its console is in its files.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(1);

/// What a machine's thread is started with.
pub(crate) struct MachineThread {
    pub(crate) request: LaunchRequest,
    /// When the machine was asked for.
    pub(crate) requested: Instant,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) console: ConsoleWriter,
    /// Writes it to files, where its directory was given.
    pub(crate) console_files: ConsoleFileWriter,
    pub(crate) counters: Arc<CountersCell>,
    pub(crate) inbox: Inbox,
    pub(crate) status: watch::Sender<MachineStatus>,
    /// Moved on at each turn of the machine's event loop.
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// Answers the launch that waits for the machine to be under way.
    pub(crate) under_way: LaunchSignal,
    pub(crate) reaper: ToReaper,
    pub(crate) release: ReleaseSignal,
}

impl MachineThread {
    /// Runs the thread to its end. Nothing that happens in here, panics included, reaches another machine.
    pub(crate) fn run(self) {
        syscall_filter::enter(ThreadKind::Machine, self.request.id.as_str());
        // Whatever is logged on this thread is about this VM, also by devices, which do not know its name.
        let _about = tracing::info_span!("machine", vm_id = %self.request.id).entered();
        let Self { request, engine, console, console_files, counters, reaper, release, .. } = self;
        let LaunchRequest {
            id,
            spec,
            verified,
            initial,
            resets,
            lock,
            console_dir,
            isolation: _,
            limits: _,
            notes: _,
        } = request;
        let files = console_dir.map(|directory| console_files.register(&id, console.recorder(), directory));
        drop(console_files);
        let mut driver = MachineDriver {
            id: id.clone(),
            inbox: self.inbox,
            status: self.status,
            heartbeat: self.heartbeat,
            requested: self.requested,
            under_way: Some(self.under_way),
            slow_turns: SlowTurns::default(),
            last_command: None,
            resets,
            boot_files: BootFiles::default(),
            button: None,
            orders: StandingOrders::default(),
        };
        let runner =
            MachineRunner { name: id.as_str().to_owned(), engine, console, counters: counters.clone() };
        let first = FirstMachine { spec, verified, initial, resets };
        let mut machine = None;
        // An outer slot keeps the machine out of an unwinding: closing it belongs to the reaper.
        let outcome = contain(|| runner.run(first, &mut machine, &mut driver))
            .unwrap_or_else(|panic| Err(LaunchFailure::Panicked(panic)));
        // Followers of the console end with the machine.
        drop(runner);
        // Ends the vCPUs where a panic left them running: "exited" is to mean that nothing of the guest runs.
        let remains = contain(|| machine.map(Machine::into_remains)).unwrap_or_else(|panic| {
            tracing::error!(vm_id = %id, panic, "taking the machine apart failed");
            None
        });
        // The last reading comes before the exit is published, so that whoever sees the exit finds the final figures.
        if let Err(panic) = contain(|| counters.end()) {
            tracing::error!(vm_id = %id, panic, "the last reading of the counters failed");
        }
        if let Some(files) = files {
            close_console(&id, files);
        }
        let status = publish(&id, outcome, driver);
        reaper.hand_over(EndedMachine { id, remains, lock, status, release });
    }
}

/// Waits until all that the guest wrote is in files, so that whoever sees the exit finds it there.
fn close_console(id: &VmId, files: FileRegistration) {
    if let Err(error) = files.close(CONSOLE_PATIENCE) {
        tracing::warn!(vm_id = %id, %error, "the end of the machine's console may be in memory only");
    }
}

/// Publishes how the machine ended: in its status, and as the answer to the launch if that still waits. Closes the
/// mailbox, and answers where the status is told.
fn publish(
    id: &VmId,
    outcome: Result<MachineExit, LaunchFailure>,
    driver: MachineDriver,
) -> watch::Sender<MachineStatus> {
    let exit = match &outcome {
        Ok(exit) => exit.clone(),
        Err(failure) => exit_of(failure),
    };
    tracing::info!(vm_id = %id, ?exit, "the machine has ended");
    driver.status.send_modify(|status| {
        status.phase = MachinePhase::Exited(exit.clone());
        status.disk_trouble = None;
    });
    let MachineDriver { status, under_way, .. } = driver;
    let Some(waiting) = under_way else {
        return status;
    };
    let answer = match (outcome, exit) {
        (Err(failure), _) => Err(failure),
        // Only a guest that ran can do these.
        (
            Ok(_),
            MachineExit::PoweredOff
            | MachineExit::Reset(_)
            | MachineExit::TripleFault
            | MachineExit::GuestFault(_),
        ) => Ok(()),
        (
            Ok(_),
            exit @ (MachineExit::Killed
            | MachineExit::NotBuilt { .. }
            | MachineExit::Failed(_)
            | MachineExit::HostLost(_)
            | MachineExit::HostOutOfMemory(_)
            | MachineExit::MemoryLimit(_)),
        ) => Err(LaunchFailure::Ended(exit)),
    };
    let _ = waiting.send(answer);
    status
}

/// `vm:<id>` in what fits a thread's name. Of a longer id both ends are kept: families of VMs tend to share the
/// front.
pub fn thread_name(id: &VmId) -> String {
    let whole = format!("vm:{id}");
    if whole.len() <= THREAD_NAME_BYTES {
        return whole;
    }
    // Ids are ASCII: every byte is a character's border.
    let (front, back) = (&whole[..9], &whole[whole.len() - 5..]);
    format!("{front}~{back}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_names_fit_and_tell_long_ids_apart() {
        assert_eq!(thread_name(&VmId::new("web-1")), "vm:web-1");
        assert_eq!(thread_name(&VmId::new("exactly-12-b")), "vm:exactly-12-b");
        assert_eq!(thread_name(&VmId::new("web-frontend-17")), "vm:web-fr~nd-17");
        assert_eq!(thread_name(&VmId::new(&"a".repeat(63))).len(), THREAD_NAME_BYTES);
    }
}

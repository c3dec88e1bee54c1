//! The end of a place: how its last machine ended is published, and what is left handed over.

use std::time::Duration;

use console_log::FileRegistration;
use machine_host::LaunchFailure;
use tokio::sync::watch;
use vm_model::{MachineExit, MachinePhase, MachineStatus, VmId};

use super::driver::MachineDriver;
use super::place::MachinePlace;
use crate::containment::contain;
use crate::engine::Remains;
use crate::error::exit_of;
use crate::handover::{EndedMachine, ToReaper};

/// How long an ended machine waits until its console is in its files.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(1);

impl MachinePlace {
    /// Publishes how the last machine ended, of which `remains` are left, for the reaper.
    pub(super) fn end(
        self,
        outcome: Result<MachineExit, LaunchFailure>,
        remains: Option<Box<dyn Remains>>,
    ) -> (EndedMachine, ToReaper) {
        let Self { engine: _, console, counters, driver, files, lock, reaper, release } = self;
        // Followers of the console end with the machine.
        drop(console);
        let id = driver.id.clone();
        // The last reading comes before the exit is published, so that whoever sees the exit finds the final figures.
        if let Err(panic) = contain(|| counters.end()) {
            tracing::error!(vm_id = %id, panic, "the last reading of the counters failed");
        }
        if let Some(files) = files {
            close_console(&id, files);
        }
        let status = publish(&id, outcome, driver);
        (EndedMachine { id, remains, lock, status, release }, reaper)
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

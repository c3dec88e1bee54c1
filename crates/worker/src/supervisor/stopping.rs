//! Stopping a machine by order.
//!
//! The order is on record before the guest hears of it. A worker that takes the machine over, because the one that gave the
//! order was killed, can tell so that the guest did not switch itself off, and goes on with what the order was for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};
use vm_model::{
    DesiredState, EndCause, EndMethod, Generation, MachineExit, RunEnd, StopMethod, Timestamp, VmStatus,
};

use super::live::LiveMachine;
use super::step::{Goal, RunState};
use super::task::{RETRY, Task, Wanted};
use super::{Patience, Target};
use crate::failure::chain;
use crate::records::VmRecord;

/// How and why a machine ended that had been told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OrderedEnd {
    method: EndMethod,
    cause: EndCause,
}

impl Task {
    /// Ends the machine because of `target`: by the power button, or by force where the guest does not obey in time.
    pub(super) async fn stop(&mut self, target: &Target) {
        let cause = self.cause(target);
        if self.context.machines.machines_outlive_it() {
            self.keep(target, |record| record.stopping = Some(cause)).await;
        }
        let RunState::Up { machine, .. } = &self.state else { return };
        // Told first, looked at then: who loses patience meanwhile either kills what it sees stopping, or is seen here.
        self.publish(VmStatus::Stopping);
        let patience = self.target.borrow().patience;
        let power_button = match patience {
            Patience::Full => self.context.lifecycle.stop_timeout,
            Patience::None => Duration::ZERO,
        };
        let mut targets = self.target.clone();
        // Where the worker goes and the machine does not, the next one goes on with the order, which is on record. Dropping the
        // first arm leaves the guest with what it was told.
        let stopped = tokio::select! {
            stopped = machine.stop(power_button) => stopped,
            () = abandoned(&mut targets), if self.context.machines.machines_outlive_it() => {
                info!(vm_id = %self.id, "the worker ends before the VM has stopped: the next one goes on with that");
                return;
            }
        };
        let method = match stopped {
            Ok(method) => method,
            Err(problem) => {
                // The machine may still run: nothing of it is given up before it is proven gone.
                let problem = chain(&problem);
                error!(vm_id = %self.id, error = problem, "the VM did not stop; trying again");
                self.tell_host_trouble(&problem);
                sleep(RETRY).await;
                return;
            }
        };
        // Somebody may have killed it while it was asked.
        let method = if machine.exit() == Some(MachineExit::Killed) { StopMethod::Kill } else { method };
        self.info.send_modify(|info| info.last_stop = Some(method));
        // Whoever lost patience did so before or after the guest was asked.
        let patience = self.target.borrow().patience;
        if let RunState::Up { machine, .. } = std::mem::replace(&mut self.state, RunState::Off) {
            let ran_for = machine.age();
            let share = machine.tear_down(&self.context, |problem| self.tell_unreleased(problem)).await;
            self.forget_taps();
            self.record_end(run_end(end_method(method, patience), cause, ran_for)).await;
            self.interrupt_trial().await;
            // Another machine takes its place: nobody else gets its memory meanwhile.
            self.share = matches!(target.goal, Goal::Be(DesiredState::Running | DesiredState::Paused))
                .then_some(share);
        }
    }

    /// Tells what keeps the ended machine from giving back what it held; whether anybody is left who wants the VM.
    pub(super) fn tell_unreleased(&self, problem: &str) -> Wanted {
        self.publish(VmStatus::Stopping);
        if self.tell_host_trouble(problem) {
            error!(vm_id = %self.id, problem, "the VM has not stopped yet");
        }
        if self.target.has_changed().is_err() { Wanted::No } else { Wanted::Yes }
    }

    /// Why the machine is stopped because of `target`.
    fn cause(&self, target: &Target) -> EndCause {
        let is_restart = match &self.state {
            RunState::Up { stamp, runs, .. } => {
                stamp.revision != target.stamp.revision && *runs == target.stamp.definition
            }
            RunState::Off
            | RunState::PoweredOff { .. }
            | RunState::Failed { .. }
            | RunState::Waiting { .. } => false,
        };
        // What a call or an operator wants is no generation's.
        let by_call = EndCause::Stopped { generation: Generation::default() };
        let generation = target.generation;
        match target.goal {
            Goal::Gone => EndCause::Removed,
            Goal::Suspended => EndCause::WorkerEnded,
            Goal::Be(DesiredState::Stopped) if target.order.is_some() => by_call,
            Goal::Be(DesiredState::Stopped) => EndCause::Stopped { generation },
            Goal::Be(DesiredState::Running | DesiredState::Paused) if is_restart => by_call,
            Goal::Be(DesiredState::Running | DesiredState::Paused) => EndCause::Changed { generation },
        }
    }

    /// Takes notice of the end of a machine that an earlier worker told to stop. Where the VM should run, it is started again.
    pub(super) async fn end_as_ordered(&mut self, OrderedEnd { method, cause }: OrderedEnd) {
        if let RunState::Up { machine, .. } = std::mem::replace(&mut self.state, RunState::Off) {
            let ran_for = machine.age();
            drop(machine.tear_down(&self.context, |problem| self.tell_unreleased(problem)).await);
            self.forget_taps();
            self.record_end(run_end(method, cause, ran_for)).await;
            self.interrupt_trial().await;
        }
    }
}

/// Returns when nobody is left who wants anything of the VM. Cancel-safe.
async fn abandoned(targets: &mut watch::Receiver<Target>) {
    // An error is the end of who tells.
    let _ = targets.wait_for(|_| false).await;
}

/// How `machine` ended, where that is what it was told to according to `record`.
pub(super) fn ordered_end(record: &VmRecord, machine: &LiveMachine) -> Option<OrderedEnd> {
    let cause = record.stopping?;
    let method = obeyed(&machine.exit()?)?;
    machine.panic().is_none().then_some(OrderedEnd { method, cause })
}

/// How a machine ended by `exit` that was told to stop; nothing where something went wrong.
fn obeyed(exit: &MachineExit) -> Option<EndMethod> {
    match exit {
        // Also a reset ends a machine that was told to stop.
        MachineExit::PoweredOff | MachineExit::Reset(_) => Some(EndMethod::PowerButton),
        MachineExit::Killed => Some(EndMethod::Killed),
        MachineExit::TripleFault
        | MachineExit::GuestFault(_)
        | MachineExit::NotBuilt { .. }
        | MachineExit::Failed(_)
        | MachineExit::HostLost(_)
        | MachineExit::HostOutOfMemory(_)
        | MachineExit::MemoryLimit(_) => None,
    }
}

fn end_method(method: StopMethod, patience: Patience) -> EndMethod {
    match (method, patience) {
        (StopMethod::AlreadyStopped, _) => EndMethod::PoweredOff,
        (StopMethod::PowerButton, _) => EndMethod::PowerButton,
        (StopMethod::Kill, Patience::Full) => EndMethod::Killed,
        (StopMethod::Kill, Patience::None) => EndMethod::Forced,
    }
}

fn run_end(method: EndMethod, cause: EndCause, ran_for: Duration) -> RunEnd {
    RunEnd { at: Timestamp::now(), ran_for: Some(ran_for), method, cause, detail: None }
}

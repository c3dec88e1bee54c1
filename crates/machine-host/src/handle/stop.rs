//! Stopping a machine: the power button, again where the guest does not react, then, after a while, the kill. Built on
//! commands and the status alone, so it is the same wherever the machine is. When the button is pressed again is
//! `pressing`'s to say.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};
use vm_model::{Command, MachineExit, PowerButton, StopMethod, VmId};

use super::MachineHandle;
use super::pressing::Presses;
use crate::CommandError;

/// How patient a stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// How long the guest has to switch itself off after its power button was pressed; zero does not press it.
    pub power_button: Duration,
    /// How long the machine has to end after it was killed.
    pub kill: Duration,
}

impl StopPolicy {
    /// A stop that kills at once, without pressing the power button.
    pub const KILL: Self = Self { power_button: Duration::ZERO, kill: Duration::from_secs(10) };
}

impl Default for StopPolicy {
    /// Half a minute for the guest.
    fn default() -> Self {
        Self { power_button: Duration::from_secs(30), ..Self::KILL }
    }
}

/// How a stop went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// What ended the machine.
    pub method: StopMethod,
    /// How it ended.
    pub exit: MachineExit,
    /// How long it took.
    pub took: Duration,
}

/// Why a machine could not be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StopError {
    /// It outlived being killed: its thread is stuck. It still runs, or may.
    #[error("VM {vm} was killed and has not ended within {deadline:?}: its thread is stuck")]
    Deadline {
        /// Which VM.
        vm: VmId,
        /// How long was waited after the kill.
        deadline: Duration,
    },
}

impl MachineHandle {
    /// Stops the machine: presses the power button, again while the guest does not react, and kills what has not ended by
    /// then. A paused machine is resumed first, so that its guest sees the button.
    ///
    /// Returns when the machine has ended; [`MachineHandle::released`] tells when what it held is given back.
    /// A stop that is given up half-way has pressed the button and may be begun again.
    ///
    /// # Errors
    /// The machine outlived its kill.
    pub async fn stop(&self, policy: StopPolicy) -> Result<StopReport, StopError> {
        self.stop_unless_going(policy, || false).await
    }

    /// As [`MachineHandle::stop`], but the button is not pressed again once `is_going` says that the guest is on its way
    /// down: for callers that hear of that from the guest itself.
    ///
    /// # Errors
    /// As [`MachineHandle::stop`].
    pub async fn stop_unless_going(
        &self,
        policy: StopPolicy,
        is_going: impl Fn() -> bool,
    ) -> Result<StopReport, StopError> {
        let begun = Instant::now();
        if let Some(exit) = self.exit_now() {
            return Ok(report(StopMethod::AlreadyStopped, exit, begun));
        }
        if let Some(exit) = self.ask_to_power_off(begun, policy.power_button, is_going).await {
            return Ok(report(StopMethod::PowerButton, exit, begun));
        }
        // The answer to a kill is the machine's end, which is waited for next.
        let _ = self.call(Command::Kill, self.command_deadline()).await;
        let exit = timeout(policy.kill, self.exited())
            .await
            .map_err(|_| StopError::Deadline { vm: self.id().clone(), deadline: policy.kill })?;
        // The guest may have finished in the very moment.
        let method = match exit {
            MachineExit::PoweredOff if policy.power_button > Duration::ZERO => StopMethod::PowerButton,
            MachineExit::PoweredOff
            | MachineExit::Killed
            | MachineExit::Reset(_)
            | MachineExit::TripleFault
            | MachineExit::NotBuilt { .. }
            | MachineExit::GuestFault(_)
            | MachineExit::Failed(_)
            | MachineExit::HostLost(_)
            | MachineExit::HostOutOfMemory(_)
            | MachineExit::MemoryLimit(_) => StopMethod::Kill,
        };
        Ok(report(method, exit, begun))
    }

    /// Presses the button as often as it takes and waits; `None` where the machine has not ended within `patience`.
    async fn ask_to_power_off(
        &self,
        begun: Instant,
        patience: Duration,
        is_going: impl Fn() -> bool,
    ) -> Option<MachineExit> {
        if patience.is_zero() {
            return None;
        }
        let deadline = begun + patience;
        if let Err(error) = self.request_shutdown(deadline).await
            && self.exit_now().is_none()
        {
            tracing::warn!(vm_id = %self.id(), %error, "the power button could not be pressed");
            return None;
        }
        let mut status = self.status();
        let mut presses = Presses::begin(Instant::now());
        while Instant::now() < deadline {
            let button = status.borrow_and_update().power_button;
            presses.look(button, Instant::now());
            let due = presses.next(button, is_going());
            if due.is_some_and(|due| due <= Instant::now()) {
                self.press_again(button, deadline).await;
                presses.note(button, Instant::now());
                continue;
            }
            // All arms only wait, so losing any loses nothing.
            tokio::select! {
                biased;
                exit = self.exited() => return Some(exit),
                _ = status.changed() => {}
                () = sleep_until(due.unwrap_or(deadline).min(deadline)) => {}
            }
        }
        self.exit_now()
    }

    /// A failure is logged: the guest may still obey the press before.
    async fn press_again(&self, button: PowerButton, deadline: Instant) {
        tracing::info!(vm_id = %self.id(), ?button, "the guest still runs; pressing its power button again");
        if let Err(error) = self.request_shutdown(deadline).await {
            tracing::debug!(vm_id = %self.id(), %error, "the power button could not be pressed again");
        }
    }

    async fn request_shutdown(&self, deadline: Instant) -> Result<(), CommandError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.call(Command::RequestShutdown, self.command_deadline().min(left)).await.map(drop)
    }
}

fn report(method: StopMethod, exit: MachineExit, begun: Instant) -> StopReport {
    StopReport { method, exit, took: begun.elapsed() }
}

#[cfg(test)]
mod tests;

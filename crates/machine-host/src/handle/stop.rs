//! Stopping a machine: the power button, then, after a while, the kill. Built on commands alone, so it is the
//! same wherever the machine is.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::timeout;
use vm_model::{Command, MachineExit, StopMethod, VmId};

use super::MachineHandle;

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
    /// Stops the machine: presses the power button, and kills what has not ended by then. A paused machine is resumed
    /// first, so that its guest sees the button.
    ///
    /// Returns when the machine has ended; [`MachineHandle::released`] tells when what it held is given back.
    /// A stop that is given up half-way has pressed the button and may be begun again.
    ///
    /// # Errors
    /// The machine outlived its kill.
    pub async fn stop(&self, policy: StopPolicy) -> Result<StopReport, StopError> {
        let begun = Instant::now();
        if let Some(exit) = self.exit_now() {
            return Ok(report(StopMethod::AlreadyStopped, exit, begun));
        }
        if let Some(exit) = self.ask_to_power_off(policy.power_button, begun).await {
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
            | MachineExit::HostOutOfMemory(_) => StopMethod::Kill,
        };
        Ok(report(method, exit, begun))
    }

    /// Presses the button and waits; `None` where the machine has not ended within `patience`.
    async fn ask_to_power_off(&self, patience: Duration, begun: Instant) -> Option<MachineExit> {
        if patience.is_zero() {
            return None;
        }
        let asked = self.call(Command::RequestShutdown, self.command_deadline().min(patience)).await;
        if let Err(error) = asked
            && self.exit_now().is_none()
        {
            tracing::warn!(vm_id = %self.id(), %error, "the power button could not be pressed");
            return None;
        }
        let left = patience.saturating_sub(begun.elapsed());
        timeout(left, self.exited()).await.ok()
    }
}

fn report(method: StopMethod, exit: MachineExit, begun: Instant) -> StopReport {
    StopReport { method, exit, took: begun.elapsed() }
}

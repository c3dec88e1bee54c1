//! What is needed to launch a machine, and how its thread answers the launch.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;
use vm_model::{InitialState, MachineSpec, ResetPolicy, VmId};

use crate::error::LaunchFailure;

/// Which machine to launch, and how.
#[derive(Debug)]
pub struct LaunchRequest {
    /// Whose machine it is.
    pub id: VmId,
    /// What it is made of.
    pub spec: MachineSpec<OwnedFd>,
    /// Whether it runs at once.
    pub initial: InitialState,
    /// What its guest's resets do.
    pub resets: ResetPolicy,
}

/// The answer to a launch, given once: the machine is under way, or what kept it from that.
pub(crate) type LaunchOutcome = Result<(), LaunchFailure>;

/// Where the machine's thread gives it.
pub(crate) type LaunchSignal = oneshot::Sender<LaunchOutcome>;

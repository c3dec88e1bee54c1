//! What a machine is launched with, and why it was not.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_model::{
    BootIdentities, FailureKind, InitialState, Isolation, MachineExit, MachineSpec, ResetPolicy,
    ResourceLimits, VmId,
};

/// Which machine to launch, and how.
#[derive(Debug)]
pub struct LaunchRequest {
    /// Whose machine it is.
    pub id: VmId,
    /// What it is made of.
    pub spec: MachineSpec<OwnedFd>,
    /// What its kernel and its initial RAM disk were when they were verified. They are looked at after each loading, before
    /// the first instruction; `None` where nothing was verified.
    pub verified: Option<BootIdentities>,
    /// Whether it runs at once.
    pub initial: InitialState,
    /// What its guest's resets do.
    pub resets: ResetPolicy,
    /// Whether its process may run other machines too. A host without processes of its own does not read it: see
    /// [`MachineHost::isolates`](crate::MachineHost::isolates).
    pub isolation: Isolation,
    /// What its process may take of the host.
    pub limits: MachineLimits,
    /// The directory that its console is written to as it comes; `None` keeps it in memory only.
    pub console_dir: Option<OwnedFd>,
    /// Held open until the machine is released, by the process that runs it: a lock that says who that is.
    pub lock: Option<OwnedFd>,
    /// What the launcher wants to be told when it, or who comes after it, adopts the machine. Hosts do not read it.
    pub notes: String,
}

impl LaunchRequest {
    /// The request for a machine whose console stays in memory, and that nobody has to adopt.
    pub fn new(id: VmId, spec: MachineSpec<OwnedFd>) -> Self {
        Self {
            id,
            spec,
            verified: None,
            initial: InitialState::default(),
            resets: ResetPolicy::default(),
            isolation: Isolation::default(),
            limits: MachineLimits::default(),
            console_dir: None,
            lock: None,
            notes: String::new(),
        }
    }
}

/// What the process of one machine may take of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineLimits {
    /// The limits. None are not touched: a process that several machines share has none.
    pub values: ResourceLimits,
    /// The files of its disks: I/O is limited by the device of the host that they lie on.
    pub disks: Vec<PathBuf>,
    /// What becomes of a machine whose limits cannot all be put in force.
    pub enforcement: Enforcement,
}

/// What becomes of a machine that cannot be limited as it is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// It runs, and that is said.
    #[default]
    BestEffort,
    /// It is not launched.
    Required,
}

/// Why a machine was not launched. Nothing of it is left, except where said.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchError {
    /// The host is shutting down.
    #[error("cannot launch VM {vm}: this host is shutting down")]
    ShuttingDown {
        /// Which VM.
        vm: VmId,
    },
    /// A machine of this name is there.
    #[error("cannot launch VM {vm}: a machine of that name is there already")]
    AlreadyHosted {
        /// Which VM.
        vm: VmId,
    },
    /// The last machine of this name has ended, and is not released yet: what it still does to a disk must not meet the
    /// next guest.
    #[error("cannot launch VM {vm}: its last machine is not released yet: {obstacle} (for {waited:.1?} now)")]
    Unsettled {
        /// Which VM.
        vm: VmId,
        /// What it waits for, and which disk.
        obstacle: String,
        /// How long.
        waited: Duration,
    },
    /// There are as many machines as there may be.
    #[error("cannot launch VM {vm}: this process hosts {limit} machines already, the most it is set to")]
    Full {
        /// Which VM.
        vm: VmId,
        /// The most there may be.
        limit: usize,
    },
    /// The host lacks what a machine needs before it can be built: a thread, an eventfd, a process.
    #[error("cannot launch VM {vm}: {problem}")]
    Host {
        /// Which VM.
        vm: VmId,
        /// What is lacking and why; it may have come from another process.
        problem: String,
    },
    /// It was tried and did not get as far as its first instruction.
    #[error("cannot launch VM {vm}")]
    Machine {
        /// Which VM.
        vm: VmId,
        /// What happened.
        #[source]
        source: LaunchFailure,
    },
    /// It took too long. It is killed; what it holds is given back as soon as its thread gets to it.
    #[error("cannot launch VM {vm}: its machine was not under way within {deadline:?}")]
    Deadline {
        /// Which VM.
        vm: VmId,
        /// How long was waited.
        deadline: Duration,
    },
}

impl LaunchError {
    /// What kind of failure this is, for whoever decides about trying again.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::ShuttingDown { .. }
            | Self::AlreadyHosted { .. }
            | Self::Unsettled { .. }
            | Self::Full { .. }
            | Self::Host { .. }
            | Self::Deadline { .. } => FailureKind::Host,
            Self::Machine { source, .. } => source.kind(),
        }
    }
}

/// What happened on a machine's thread before the first instruction, of the first boot or after a reset in place.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchFailure {
    /// The machine could not be built.
    #[error("its machine cannot be built: {reason}")]
    Build {
        /// Whose fault that is.
        kind: FailureKind,
        /// What failed, on what, why.
        reason: String,
    },
    /// The machine was built and could not be started.
    #[error("its machine was built and cannot be started: {reason}")]
    Start {
        /// What failed, on what, why.
        reason: String,
    },
    /// The machine ended without running.
    #[error("its machine ended before its first vCPU was entered: {0:?}")]
    Ended(MachineExit),
    /// Its code panicked.
    #[error("{0}")]
    Panicked(String),
}

impl LaunchFailure {
    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Build { kind, .. } => *kind,
            Self::Start { .. } => FailureKind::Host,
            Self::Ended(_) | Self::Panicked(_) => FailureKind::Machine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_a_wire() {
        let vm = VmId::new("web-1");
        let source = LaunchFailure::Build { kind: FailureKind::Artifact, reason: "no kernel".to_owned() };
        let error = LaunchError::Machine { vm, source };
        let json = serde_json::to_string(&error).expect("errors serialise");
        assert_eq!(
            json,
            r#"{"machine":{"vm":"web-1","source":{"build":{"kind":"artifact","reason":"no kernel"}}}}"#
        );
        assert_eq!(serde_json::from_str::<LaunchError>(&json).expect("and parse back"), error);
        assert_eq!(error.kind(), FailureKind::Artifact);
    }
}

//! What can go wrong between a request and its answer, and how it is told.

use std::error::Error;
use std::io;
use std::time::Duration;

use thiserror::Error;
use vm_model::{CommandKind, FailureKind, MachineExit, MachinePhase, VmId, error_chain};

/// A cause, whatever the engine calls it.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// Why the host could not be set up.
#[derive(Debug, Error)]
#[error("cannot start the thread {thread}, without which machines cannot be hosted")]
pub struct HostError {
    pub(crate) thread: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

/// Why a machine was not launched. Nothing of it is left, except where said.
#[derive(Debug, Error)]
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
    /// No mailbox for its commands.
    #[error("cannot launch VM {vm}: no eventfd for its commands")]
    Mailbox {
        /// Which VM.
        vm: VmId,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot launch VM {vm}: cannot start its thread {thread}")]
    Thread {
        /// Which VM.
        vm: VmId,
        /// The thread's name.
        thread: String,
        /// The underlying error.
        #[source]
        source: io::Error,
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
            | Self::Mailbox { .. }
            | Self::Thread { .. }
            | Self::Deadline { .. } => FailureKind::Host,
            Self::Machine { source, .. } => source.kind(),
        }
    }
}

/// What happened on a machine's thread before the first instruction, of the first boot or after a reset in place.
#[derive(Debug, Error)]
pub enum LaunchFailure {
    /// The machine could not be built.
    #[error("its machine cannot be built")]
    Build {
        /// Whose fault that is.
        kind: FailureKind,
        /// The underlying error.
        #[source]
        source: Cause,
    },
    /// The machine could not be set going.
    #[error("its machine was built and cannot be started")]
    Start(#[source] Cause),
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
            Self::Start(_) => FailureKind::Host,
            Self::Ended(_) | Self::Panicked(_) => FailureKind::Machine,
        }
    }

    /// The exit of a machine that failed like this.
    pub(crate) fn as_exit(&self) -> MachineExit {
        match self {
            Self::Build { .. } | Self::Start(_) => {
                MachineExit::NotBuilt { kind: self.kind(), reason: error_chain(self) }
            }
            Self::Ended(exit) => exit.clone(),
            Self::Panicked(_) => MachineExit::Failed(error_chain(self)),
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The machine's phase does not allow it.
    #[error("cannot {command} VM {vm} while it is {phase:?}")]
    Denied {
        /// Which VM.
        vm: VmId,
        /// What was asked.
        command: CommandKind,
        /// The phase.
        phase: MachinePhase,
    },
    /// There was no answer in time. It may still happen if the machine had taken it up, else never will.
    #[error("VM {vm} did not answer \"{command}\" within {deadline:?}")]
    Deadline {
        /// Which VM.
        vm: VmId,
        /// What was asked.
        command: CommandKind,
        /// How long was waited.
        deadline: Duration,
    },
    /// The machine has ended.
    #[error("cannot {command} VM {vm}: its machine has ended")]
    Ended {
        /// Which VM.
        vm: VmId,
        /// What was asked.
        command: CommandKind,
    },
    /// It was tried and failed; the machine goes on.
    #[error("cannot {command} VM {vm}: {reason}")]
    Failed {
        /// Which VM.
        vm: VmId,
        /// What was asked.
        command: CommandKind,
        /// What the machine said, which may have come from another process.
        reason: String,
    },
    /// The answer belongs to another command: the other end is broken.
    #[error("VM {vm} answered \"{command}\" with something else")]
    Unexpected {
        /// Which VM.
        vm: VmId,
        /// What was asked.
        command: CommandKind,
    },
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

//! How commands get to a machine, and what can go wrong on the way.

use std::time::Duration;

use thiserror::Error;
use vm_model::{Command, CommandKind, MachinePhase, Reply, VmId};

use crate::BoxFuture;

/// The answer to a command, once it comes.
pub type ReplyFuture<'a> = BoxFuture<'a, Result<Reply, PortClosed>>;

/// Where commands to one machine go: a channel to the machine's thread, or a connection to the machine's process.
pub trait CommandPort: Send + Sync {
    /// Sends `command` and waits for its reply, without a limit of its own: the caller bounds the wait.
    ///
    /// A call that is given up before the machine took it up is never carried out. [`Command::Kill`] is answered
    /// at once and overtakes what waits. What dropping the last reference to the port does to the machine is its host's to
    /// say: see [`crate::MachineHost`].
    fn call(&self, command: Command) -> ReplyFuture<'_>;
}

/// The machine has ended, or its process is gone: commands are not taken any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the machine takes no commands any more")]
pub struct PortClosed;

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

//! Whether a machine that has ended is rebuilt in place, and from what.
//!
//! ```text
//!              a guest's reset that the budget has room for, or the reset button
//!            ┌──────────────────────────────────────────────────────────────────┐
//!            ▼                                                                  │
//!   build ──→ repeat standing orders ──→ start ──→ run ──→ ended ──→ take apart ┘
//!                                                            │
//!                                                            └──→ any other end: told, and handed over
//! ```
//!
//! [`Renewal::verdict`] decides, purely; the machine's thread acts.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use thiserror::Error;
use vm_model::{
    FailureKind, FileRole, InitialState, MachineExit, MachinePhase, MachineSpec, ResetBudget, ResetPolicy,
};

use crate::engine::BuildFailure;

/// What one machine is rebuilt from, and how often that may happen.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// Never built from itself: each machine uses up the description it is built from.
    original: MachineSpec<OwnedFd>,
    budget: ResetBudget,
}

/// How a machine ended, and what is known of it then.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) exit: MachineExit,
    /// Where it was in its life.
    pub(crate) phase: MachinePhase,
    /// Its reset button was pressed, which is what ended it if nothing else did.
    pub(crate) button: Button,
    /// Whether its guest's kernel had given up.
    pub(crate) guest: GuestHealth,
    /// Whether nothing of it goes on by itself.
    pub(crate) rest: Rest,
    /// Whether what it boots from is what was verified.
    pub(crate) boot_files: BootFilesState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Button {
    Pressed,
    NotPressed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestHealth {
    Well,
    Panicked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Settled,
    /// A thread of it was left behind, or I/O that may still change a disk.
    Unsettled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootFilesState {
    AsVerified,
    Changed,
}

/// What a reset came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetBy {
    Guest,
    Button,
}

/// What comes after an ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing; this is how it ended.
    Final(MachineExit),
    /// Another machine in the same place, which begins like this.
    Again { by: ResetBy, initial: InitialState },
}

impl Renewal {
    /// What the machine of `spec` needs under `policy`: nothing where no reset is carried out in place.
    pub(crate) fn of(spec: &MachineSpec<OwnedFd>, policy: ResetPolicy) -> Result<Option<Self>, BuildFailure> {
        match policy {
            ResetPolicy::EndsMachine => Ok(None),
            ResetPolicy::InPlace(limit) => {
                Ok(Some(Self { original: duplicate(spec)?, budget: ResetBudget::new(limit) }))
            }
        }
    }

    /// What the next machine is built from.
    pub(crate) fn copy(&self) -> Result<MachineSpec<OwnedFd>, BuildFailure> {
        duplicate(&self.original)
    }

    /// Decides what follows an ending at `now`.
    pub(crate) fn verdict(&mut self, ending: Ending, now: Instant) -> Verdict {
        verdict(&mut self.budget, ending, now)
    }
}

/// - The button works whatever the guest did, and does not count against its budget. A machine that had ended by itself
///   stays ended, unless it ended by a reset.
/// - A reset after a kernel panic is a failure, and for whoever launched the machine to judge.
/// - A reset of a machine that was asked to stop is its stop.
/// - A guest that reset while it was being paused is paused before its first instruction.
/// - Where the old machine may still touch its disks, another must not.
/// - Where a file that the machine boots from was changed, a guest's reset ends it: its next start verifies the file. The
///   button is not pressed then; should the file change right after, its loading is what fails.
fn verdict(budget: &mut ResetBudget, ending: Ending, now: Instant) -> Verdict {
    let Ending { exit, phase, button, guest, rest, boot_files } = ending;
    let wanted = match (&exit, button) {
        (MachineExit::Killed | MachineExit::Reset(_), Button::Pressed) => {
            Some((ResetBy::Button, InitialState::Running))
        }
        (MachineExit::Reset(_), Button::NotPressed) if guest == GuestHealth::Well => match phase {
            MachinePhase::Booting | MachinePhase::Running => Some((ResetBy::Guest, InitialState::Running)),
            MachinePhase::Paused => Some((ResetBy::Guest, InitialState::Paused)),
            MachinePhase::Stopping | MachinePhase::Exited(_) => None,
        },
        (
            MachineExit::Reset(_)
            | MachineExit::Killed
            | MachineExit::PoweredOff
            | MachineExit::TripleFault
            | MachineExit::GuestFault(_)
            | MachineExit::NotBuilt { .. }
            | MachineExit::Failed(_)
            | MachineExit::HostLost(_)
            | MachineExit::HostOutOfMemory(_)
            | MachineExit::MemoryLimit(_),
            Button::Pressed | Button::NotPressed,
        ) => None,
    };
    match (wanted, rest) {
        (None, _) => Verdict::Final(exit),
        // The machine was killed to carry out the button: it must not be reported as killed.
        (Some((ResetBy::Button, _)), Rest::Unsettled) => Verdict::Final(MachineExit::Failed(
            "its reset button was pressed, and a vCPU or a disk did not come to rest".to_owned(),
        )),
        (Some((ResetBy::Guest, _)), Rest::Unsettled) => Verdict::Final(exit),
        (Some((by @ ResetBy::Button, initial)), Rest::Settled) => Verdict::Again { by, initial },
        (Some((by @ ResetBy::Guest, initial)), Rest::Settled) => {
            if boot_files == BootFilesState::AsVerified && budget.take(now) {
                Verdict::Again { by, initial }
            } else {
                Verdict::Final(exit)
            }
        }
    }
}

/// Why a description could not be duplicated: the process has no descriptor left.
#[derive(Debug, Error)]
#[error("cannot duplicate the descriptor of its {file}")]
struct DuplicateError {
    file: String,
    #[source]
    source: io::Error,
}

/// The same machine on descriptors of its own, which are closed on exec. What they have in common with the originals is
/// the kernel's description of an open file: positions, locks, a TAP's queue.
fn duplicate(spec: &MachineSpec<OwnedFd>) -> Result<MachineSpec<OwnedFd>, BuildFailure> {
    spec.as_ref().try_map_files(|role, file| {
        let failed = |source| DuplicateError { file: name_of(role), source };
        let failed = |source| BuildFailure { kind: FailureKind::Host, cause: failed(source).into() };
        file.try_clone().map_err(failed)
    })
}

fn name_of(role: FileRole<'_>) -> String {
    match role {
        FileRole::Kernel => "kernel".to_owned(),
        FileRole::Initrd => "initial RAM disk".to_owned(),
        FileRole::Disk(id, _) | FileRole::DirectDisk(id) => format!("disk {id}"),
        FileRole::Tap(id) | FileRole::Vhost(id) | FileRole::NicStatistics(id) => format!("interface {id}"),
        FileRole::VsockDirectory => "directory of sockets".to_owned(),
    }
}

#[cfg(test)]
mod tests;

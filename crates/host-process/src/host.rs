//! What runs inside a host process: machines on threads, and one task for each worker that is connected.
//!
//! ```text
//!   stdin ──────────┐                       ┌── launching: one task a launch, then one that tells of the machine
//!   listening ──────┴─▶ peer (a worker) ────┤
//!                                           └── commands: one task each, bounded
//!                 all on one thread; the machines are on their own (vmm-host)
//! ```
//!
//! Machines go on without a worker. Nothing is kept for one that does not read: statuses are told as they are, the newest
//! counts, and a worker whose socket is full is disconnected. It finds everything when it comes back.
//!
//! The process ends by itself when it has neither a connection nor a machine that was not forgotten, and on SIGTERM after its
//! guests were asked to power off.

mod ending;
mod hosted;
mod launching;
mod listening;
mod peer;
mod process;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use hypervisor::{Hypervisor, KickSignalError};
use jail::JailReport;
use syscall_filter::ConfineError;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};
use vm_model::VmId;
use vmm_host::{HostError, HostOptions, VmmHost};

use crate::identity::{IdentityError, ProcessIdentity};
use hosted::Hosted;
use peer::Origin;

pub use process::{become_host_process, confine, take_stdin, tell_of_jail};

/// Who is told, for each machine, of the directory that was handed over for what is written about it, and of `None` when the
/// machine is forgotten. Called on the process' first thread, which it does not hold up.
pub type DirectoryKeeper = Rc<dyn Fn(&VmId, Option<BorrowedFd<'_>>)>;

/// The settings of a host process.
#[derive(Clone)]
pub struct ServeOptions {
    /// Those of its machines.
    pub machines: HostOptions,
    /// How long guests have to power themselves off when the process is told to terminate.
    pub patience: Duration,
    /// The process' id on the host, by which its workers know it: see [`jail::enter_pid_namespace`].
    pub pid: u32,
    /// What came of its jail, where it entered one.
    pub jail: Option<JailReport>,
    /// Who keeps the directories of machines.
    pub directories: Option<DirectoryKeeper>,
}

impl fmt::Debug for ServeOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServeOptions")
            .field("machines", &self.machines)
            .field("patience", &self.patience)
            .field("pid", &self.pid)
            .field("jail", &self.jail)
            .finish_non_exhaustive()
    }
}

impl Default for ServeOptions {
    /// Half a minute for guests; a process that has the host's numbers.
    fn default() -> Self {
        Self {
            machines: HostOptions::default(),
            patience: Duration::from_secs(30),
            pid: std::process::id(),
            jail: None,
            directories: None,
        }
    }
}

/// Why a host process could not begin.
#[derive(Debug, Error)]
pub enum ServeError {
    /// No threads to host machines with.
    #[error("machines cannot be hosted")]
    Machines(#[source] HostError),
    /// vCPUs could not be interrupted.
    #[error("vCPUs cannot be kicked out of their guests")]
    Kicks(#[source] KickSignalError),
    /// It cannot be kept to what host processes do.
    #[error("the process is not confined")]
    Confine(#[source] ConfineError),
    /// It does not know who it is.
    #[error("cannot tell which process this is")]
    Identity(#[source] ProcessError),
    /// Something that every process has is lacking.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// Why the identity of a process is not known.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ProcessError(IdentityError);

/// Hosts machines for the worker at the other end of `first`, a connected packet socket, and for those that come after it.
/// Returns when there is nothing to do any more; see the module.
///
/// The calling thread, the process' first, is kept to its system calls from here on, if the process was [confined](confine).
///
/// Runs on a current-thread runtime with I/O and time. Signals are this function's: no other part of the process may wait
/// for SIGTERM.
///
/// # Errors
/// It could not begin; nobody was answered.
pub async fn serve(hypervisor: Hypervisor, first: OwnedFd, options: ServeOptions) -> Result<(), ServeError> {
    let failed = |operation| move |source| ServeError::System { operation, source };
    let identity =
        ProcessIdentity::of_self(options.pid).map_err(|error| ServeError::Identity(ProcessError(error)))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("wait for SIGTERM"))?;
    // What a terminal sends to all that was started from it is not meant for guests. A signal that is waited for does not
    // end the process, whether or not anybody looks.
    let _hang_up = signal(SignalKind::hangup()).map_err(failed("ignore SIGHUP"))?;
    let _interrupt = signal(SignalKind::interrupt()).map_err(failed("ignore SIGINT"))?;
    hypervisor::install_kick_signal().map_err(ServeError::Kicks)?;
    // All that is done once is done: what follows is for guests.
    syscall_filter::confine_main_thread().map_err(ServeError::Confine)?;
    let machines = VmmHost::new(hypervisor, options.machines).map_err(ServeError::Machines)?;
    LocalSet::new()
        .run_until(async move {
            let host = Rc::new(Hosted::new(machines, identity, options.jail, options.directories));
            let slot = host.slot();
            spawn_local(peer::converse(host.clone(), slot, first, Origin::Parent));
            // Each arm only looks: all are cancel-safe.
            let patience = tokio::select! {
                () = host.idle() => Duration::ZERO,
                patience = host.told_to_end() => patience,
                _ = terminate.recv() => {
                    tracing::info!("told to terminate: guests are asked to power off");
                    options.patience
                }
            };
            ending::end(&host, patience).await;
        })
        .await;
    Ok(())
}

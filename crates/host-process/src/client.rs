//! Machines in processes of their own, for those who want some run: one task for each process.
//!
//! ```text
//!   HostProcesses ──▶ pool: which process the next machine goes to, and spare ones ahead
//!        │               │
//!        │               ├── starting: a program with one end of a connection as its standard input
//!        │               └── adopting: sockets that earlier workers' processes listen on
//!        ▼               ▼
//!   MachineHandle ──▶ line ──▶ conversation: the task of one process
//!                  ◀── remote machine: status, health, counters ──┘
//! ```

mod adopting;
mod believable;
mod confinement;
mod conversation;
mod directory;
mod error_output;
mod exit_record;
mod handshake;
mod hearsay;
mod jailing;
mod kernel_log;
mod launching;
mod limiting;
mod line;
mod looking;
mod own_process;
mod placement;
mod pool;
mod process;
mod remote;
mod starting;
mod strangers;

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use console_log::ConsoleSource;
use machine_host::{
    Adoption, BoxFuture, CallFilter, HostCounts, HostingProcess, LaunchError, LaunchRequest, MachineHandle,
    MachineHost, MachineLimits, Recognize, ShutdownReport,
};
use tokio::sync::Mutex;
use tokio::time::timeout;
use vm_model::{ResourceLimits, VmId};

use directory::SocketDirectory;
use line::{ProcessLine, ProcessOrder};
use pool::Pool;
use strangers::Strangers;

pub use confinement::Groups;
use confinement::unlimited_descriptors;
pub use directory::{DirectoryError, refuse_directory_of_others};
pub use jailing::{JailDemand, JailError, JailSettings, probe_jail};
pub use looking::{SeenAnswer, SeenMachine, SeenProcess, look_at_processes};
pub use placement::{Placement, ScopeSettings};

/// Where the console of a VM is read.
pub type Consoles = Arc<dyn Fn(&VmId) -> Arc<dyn ConsoleSource> + Send + Sync>;

/// The settings of [`HostProcesses`].
#[derive(Clone)]
pub struct HostProcessOptions {
    /// The command line of a host process. Its program calls [`crate::host::serve`].
    pub program: Vec<OsString>,
    /// Where processes are found again. Made if it is not there, and closed for others. It outlives workers, and is
    /// emptied when the host starts.
    pub directory: PathBuf,
    /// The most machines in one process. A process is the only border between guests that a bug of ours cannot cross, so
    /// machines with [`Isolation::Strict`](vm_model::Isolation) have one of their own whatever this says.
    pub machines_per_process: NonZeroUsize,
    /// How many processes are kept ahead.
    pub spare: usize,
    /// What processes are part of.
    pub placement: Placement,
    /// How processes are jailed; `None` leaves them as they are started. Their program is told by an argument, `--jail=…`, of
    /// what to give up, and calls [`jail::enter`] with it.
    pub jail: Option<JailSettings>,
    /// Where processes have control groups of their own.
    pub groups: Groups,
    /// How long a launch may take, its process' start included.
    pub launch_deadline: Duration,
    /// How long a command may take.
    pub command_deadline: Duration,
    /// Where consoles are read. Processes write them to the directories they are launched with.
    pub consoles: Consoles,
}

impl fmt::Debug for HostProcessOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HostProcessOptions")
            .field("program", &self.program)
            .field("directory", &self.directory)
            .field("machines_per_process", &self.machines_per_process)
            .field("spare", &self.spare)
            .field("jail", &self.jail)
            .finish_non_exhaustive()
    }
}

impl HostProcessOptions {
    /// What the program is told to do with system calls that it should not make; it filters where it is told nothing.
    fn filter(&self) -> CallFilter {
        let is_told = |mode: &str| self.program.iter().any(|word| word.to_str() == Some(mode));
        match () {
            () if is_told("--seccomp=off") => CallFilter::Off,
            () if is_told("--seccomp=log") => CallFilter::Log,
            () => CallFilter::Trap,
        }
    }
}

/// Runs machines in processes that outlive this one.
///
/// Dropping handles does nothing to machines; one that has ended is forgotten by its process when its last handle is
/// dropped, which is to be after its end is recorded. Dropping this is the same as [`MachineHost::leave`].
#[derive(Debug)]
pub struct HostProcesses {
    pool: Arc<Pool>,
    /// Processes that were not taken over. Held while they are asked, by one caller at a time.
    strangers: Mutex<Strangers>,
}

impl HostProcesses {
    /// A host without processes. Its calls belong on a runtime with I/O and time.
    ///
    /// # Errors
    /// The directory is of no use.
    pub fn new(options: HostProcessOptions) -> Result<Self, DirectoryError> {
        let directory = SocketDirectory::open(&options.directory)?;
        let errors = options.jail.and_then(|_| directory.replace_standard_error().transpose()).transpose()?;
        Ok(Self { pool: Pool::new(options, directory, errors), strangers: Mutex::default() })
    }

    async fn launch_within(&self, request: LaunchRequest) -> Result<MachineHandle, LaunchError> {
        let (vm, deadline) = (request.id.clone(), self.pool.options.launch_deadline);
        // Given up at the deadline, as if its caller had.
        let (machine, line) = timeout(deadline, launching::launch(&self.pool, request))
            .await
            .unwrap_or_else(|_| Err(LaunchError::Deadline { vm: vm.clone(), deadline }))?;
        let console = (self.pool.options.consoles)(&vm);
        Ok(machine.handle(line, console, self.pool.options.command_deadline))
    }

    async fn end(&self, deadline: Duration) -> ShutdownReport {
        let begun = Instant::now();
        let (machines, lines) = self.pool.close(ProcessOrder::ShutDown);
        // What does not end by itself is ended while there is time left to see it.
        wait_for(&lines, deadline.mul_f64(0.75)).await;
        let (_, lines) = self.pool.close(ProcessOrder::Kill);
        wait_for(&lines, deadline.saturating_sub(begun.elapsed())).await;
        let mut report = ShutdownReport::default();
        for machine in machines {
            let list = if machine.is_released() { &mut report.released } else { &mut report.remaining };
            list.push(machine.id.clone());
        }
        if report.remaining.is_empty() && self.pool.has_errors() {
            // Nobody is left who would write to it.
            self.pool.directory.remove(error_output::NAME);
        }
        report
    }
}

/// Waits until all processes are gone, no longer than `patience`.
async fn wait_for(lines: &[Arc<ProcessLine>], patience: Duration) {
    let all = async {
        for line in lines {
            line.gone().await;
        }
    };
    if timeout(patience, all).await.is_err() {
        tracing::warn!(?patience, "not all host processes have ended");
    }
}

impl MachineHost for HostProcesses {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<MachineHandle, LaunchError>> {
        Box::pin(self.launch_within(request))
    }

    fn adopt(&self, recognize: Recognize) -> BoxFuture<'_, Adoption> {
        Box::pin(async {
            let adoption = self.strangers.lock().await.adopt(&self.pool, recognize).await;
            self.pool.replenish();
            adoption
        })
    }

    fn adopt_late(&self) -> BoxFuture<'_, Adoption> {
        Box::pin(async { self.strangers.lock().await.adopt_late(&self.pool).await })
    }

    fn counts(&self) -> HostCounts {
        self.pool.counts()
    }

    fn kill_all(&self) {
        self.pool.close(ProcessOrder::ShutDown);
    }

    fn shut_down(&self, deadline: Duration) -> BoxFuture<'_, ShutdownReport> {
        Box::pin(self.end(deadline))
    }

    fn leave(&self) {
        self.pool.close(ProcessOrder::Leave);
    }

    fn machines_outlive_it(&self) -> bool {
        true
    }

    fn isolates(&self) -> bool {
        true
    }

    fn cannot_limit(&self, limits: &ResourceLimits) -> Option<String> {
        let options = &self.pool.options;
        let grouped = options.groups.cannot_limit(limits);
        grouped.or_else(|| unlimited_descriptors(limits, options.jail.is_some()))
    }

    fn process_of(&self, vm: &VmId) -> Option<HostingProcess> {
        self.pool.process_of(vm)
    }

    fn check_place(&self) -> Result<(), String> {
        self.pool.renew_directory().map_err(|problem| vm_model::error_chain(&problem))
    }

    fn unreachable(&self) -> Vec<VmId> {
        self.pool.unreachable()
    }

    fn limit(&self, vm: &VmId, limits: MachineLimits) -> BoxFuture<'_, Vec<String>> {
        let line = self.pool.line_of(vm);
        Box::pin(async move {
            match line {
                Some(line) => limiting::limit(line.confinement(), limits).await,
                None => vec!["it has no process of its own: its next start gives it one".to_owned()],
            }
        })
    }
}

impl Drop for HostProcesses {
    fn drop(&mut self) {
        self.pool.close(ProcessOrder::Leave);
        self.pool.options.groups.leave();
    }
}

//! `vm-host`: a process that holds VMs on behalf of a worker, and outlives it. Small, and quick to start.

use std::path::PathBuf;
use std::time::Duration;

use admin::VmLogSource;
use anyhow::{Context, Result};
use host_process::host::{ServeOptions, become_host_process, confine, serve, take_stdin};
use hypervisor::Hypervisor;
use syscall_filter::{ConfineError, Mode};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use vm_model::error_chain;

use crate::cli::LogFormat;
use crate::logging::VmFiles;
use crate::signals::Unexpected;
use crate::{logging, signals};

/// Runs until its last VM has ended and a worker has taken notice of that. At SIGTERM guests have `stop_timeout` to power
/// off. What is logged about a VM goes to its directory below `vms`, too.
/// What its threads do beside their system calls is dealt with as `seccomp` says.
pub(crate) fn run(
    log_format: LogFormat,
    stop_timeout: Duration,
    vms: Option<PathBuf>,
    seccomp: Mode,
) -> Result<()> {
    become_host_process();
    // Before any thread is started: threads inherit what is blocked.
    signals::block_terminal_stops()?;
    let confined = confine(seccomp);
    logging::open()?;
    let vm_files = vms.map(|directory| VmFiles { directory, source: VmLogSource::Vmm });
    logging::start(log_format, vm_files)?;
    tell(seccomp, confined);
    let worker = take_stdin().context("a worker starts this with a socket as standard input")?;
    let hypervisor = Hypervisor::open().context("cannot open KVM")?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        // What somebody sends to all processes of a name is not meant for guests.
        let _unexpected = Unexpected::listen()?;
        let _quit = signal(SignalKind::quit())?;
        let options = ServeOptions { patience: stop_timeout, ..ServeOptions::default() };
        serve(hypervisor, worker, options).await.context("cannot host VMs")
    })
}

/// Says what is not as it is by default. A kernel that filters nothing runs VMs as it always did.
fn tell(seccomp: Mode, confined: Result<(), ConfineError>) {
    match (seccomp, confined) {
        (_, Err(error)) => {
            tracing::warn!(
                error = error_chain(&error),
                "the system calls of this host process are not filtered"
            );
        }
        (Mode::Trap, Ok(())) => {}
        (Mode::Log | Mode::Off, Ok(())) => {
            tracing::warn!(%seccomp, "the system calls of this host process are not kept to those that it needs");
        }
    }
}

//! `vm-host`: a process that holds VMs on behalf of a worker, and outlives it. Small, and quick to start.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use host_process::host::{ServeOptions, become_host_process, confine, serve, take_stdin, tell_of_jail};
use hypervisor::Hypervisor;
use jail::{HostPid, JailOrder, JailReport, Outside, enter, enter_pid_namespace};
use syscall_filter::{ConfineError, Mode};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use vm_model::error_chain;

use crate::cli::LogFormat;
use crate::logging::{HandedDirectories, VmFiles};
use crate::signals::Unexpected;
use crate::{logging, signals};

/// Runs until its last VM has ended and a worker has taken notice of that. At SIGTERM guests have `stop_timeout` to power
/// off. Enters the jail that `order` describes, where one is ordered; directories of VMs lie below `vms`. What its threads do
/// beside their system calls is dealt with as `seccomp` says.
pub(crate) fn run(
    log_format: LogFormat,
    stop_timeout: Duration,
    vms: Option<PathBuf>,
    (order, seccomp): (Option<JailOrder>, Mode),
) -> Result<()> {
    // Before all else: it goes on in another process.
    let pid = enter_apart(order.as_ref())?;
    become_host_process();
    // Before any thread is started: threads inherit what is blocked.
    signals::block_terminal_stops()?;
    // Before the jail: it looks at files of the host.
    let confined = confine(seccomp);
    let worker = take_stdin().context("a worker starts this with a socket as standard input")?;
    let hypervisor = Hypervisor::open().context("cannot open KVM")?;
    logging::connect();
    // While this is the only thread, and what it needs of the host is open.
    let jail = order.map(|order| enter(&order, &outside(vms), &pid));
    logging::open()?;
    let directories = HandedDirectories::default();
    logging::start(log_format, Some(VmFiles::Handed(directories.clone())))?;
    tell(seccomp, confined);
    for gap in jail.iter().flat_map(JailReport::holes) {
        warn!(layer = %gap.layer, problem = gap.problem, "this process runs without a layer of its jail");
    }
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        // What somebody sends to all processes of a name is not meant for guests.
        let _unexpected = Unexpected::listen()?;
        let _quit = signal(SignalKind::quit())?;
        let options = ServeOptions {
            patience: stop_timeout,
            pid: pid.number,
            jail,
            directories: Some(Rc::new(move |vm, directory| directories.keep(vm, directory))),
            ..ServeOptions::default()
        };
        serve(hypervisor, worker, options).await.context("cannot host VMs")
    })
}

/// Enters the jail, tells what is missing, and returns.
pub(crate) fn probe_jail(order: Option<JailOrder>, vms: Option<PathBuf>) -> Result<()> {
    let pid = enter_apart(order.as_ref())?;
    let report = enter(&order.unwrap_or_default(), &outside(vms), &pid);
    tell_of_jail(&report).context("cannot tell of the jail")
}

fn enter_apart(order: Option<&JailOrder>) -> Result<HostPid> {
    enter_pid_namespace(order).context("cannot go on apart from other processes")
}

/// What the process is handed descriptors of.
fn outside(vms: Option<PathBuf>) -> Outside {
    Outside { trees: vms.into_iter().collect() }
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

//! What a host process of these tests does, hostile or not.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, bail};
use host_process::host::{ServeOptions, become_host_process, confine, serve, take_stdin, tell_of_jail};
use hypervisor::Hypervisor;
use jail::{JailOrder, Outside, enter, enter_pid_namespace};
use syscall_filter::Mode;

/// Hosts machines as the command line says, and does what `beside` answers on the same thread, which is told the number of
/// the descriptor that connects the process with its worker.
pub(crate) fn run<F>(beside: impl FnOnce(RawFd) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Infallible>,
{
    let Arguments { order, outside, seccomp, is_probe } = Arguments::read()?;
    let pid = enter_pid_namespace(order.as_ref()).context("cannot go on apart from other processes")?;
    if is_probe {
        let report = enter(&order.unwrap_or_default(), &outside, &pid);
        return tell_of_jail(&report).context("cannot tell of the jail");
    }
    become_host_process();
    confine(seccomp).context("cannot keep the process to its system calls")?;
    let first = take_stdin().context("cannot take the connection from the standard input")?;
    let hypervisor = Hypervisor::open().context("cannot open KVM")?;
    // While this is the only thread, and what it needs of the host is open.
    let jail = order.map(|order| enter(&order, &outside, &pid));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let options = ServeOptions { pid: pid.number, jail, ..ServeOptions::default() };
    let beside = beside(first.as_raw_fd());
    runtime.block_on(async {
        tokio::select! {
            served = serve(hypervisor, first, options) => served.context("cannot host machines"),
            never = beside => match never {},
        }
    })
}

/// What this program is told.
#[derive(Default)]
struct Arguments {
    order: Option<JailOrder>,
    outside: Outside,
    seccomp: Mode,
    is_probe: bool,
}

impl Arguments {
    /// `--jail=ORDER`, `--tree=DIRECTORY` for each below which machines' directories lie, `--seccomp=MODE`, and
    /// `--probe-jail`.
    fn read() -> anyhow::Result<Self> {
        let mut read = Self::default();
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                Some(("--jail", order)) => read.order = Some(order.parse().context("no jail")?),
                Some(("--tree", tree)) => read.outside.trees.push(tree.into()),
                Some(("--seccomp", mode)) => read.seccomp = mode.parse()?,
                None if argument == "--probe-jail" => read.is_probe = true,
                Some(_) | None => {
                    bail!("{argument:?} is no argument: --jail=, --tree=, --seccomp= and --probe-jail are")
                }
            }
        }
        Ok(read)
    }
}

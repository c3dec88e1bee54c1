//! A host process: hosts machines for the worker at the other end of its standard input.

use anyhow::{Context, bail};
use host_process::host::{ServeOptions, become_host_process, confine, serve, take_stdin, tell_of_jail};
use hypervisor::Hypervisor;
use jail::{JailOrder, Outside, enter};
use syscall_filter::Mode;

fn main() -> anyhow::Result<()> {
    let Arguments { order, outside, seccomp, is_probe } = Arguments::read()?;
    if is_probe {
        let report = enter(&order.unwrap_or_default(), &outside);
        return tell_of_jail(&report).context("cannot tell of the jail");
    }
    become_host_process();
    confine(seccomp).context("cannot keep the process to its system calls")?;
    let first = take_stdin().context("cannot take the connection from the standard input")?;
    let hypervisor = Hypervisor::open().context("cannot open KVM")?;
    // While this is the only thread, and what it needs of the host is open.
    let jail = order.map(|order| enter(&order, &outside));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let options = ServeOptions { jail, ..ServeOptions::default() };
    runtime.block_on(serve(hypervisor, first, options)).context("cannot host machines")
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

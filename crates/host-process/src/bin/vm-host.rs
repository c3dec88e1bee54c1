//! A host process: hosts machines for the worker at the other end of its standard input.

use anyhow::Context;
use host_process::host::{ServeOptions, become_host_process, confine, serve, take_stdin};
use hypervisor::Hypervisor;

fn main() -> anyhow::Result<()> {
    become_host_process();
    let mode =
        std::env::args().find_map(|word| word.strip_prefix("--seccomp=").map(str::parse)).transpose()?;
    confine(mode.unwrap_or_default()).context("cannot keep the process to its system calls")?;
    let first = take_stdin().context("cannot take the connection from the standard input")?;
    let hypervisor = Hypervisor::open().context("cannot open KVM")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(serve(hypervisor, first, ServeOptions::default())).context("cannot host machines")
}

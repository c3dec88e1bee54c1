//! What a stock Linux guest costs under this project's machine and under others: the time to its init, and the work
//! that its disk and its network do for a second of processor time.
//!
//! Runs in a host with working KVM and the test image (`cargo xtask bench --stock` sees to it) and prints one line of
//! JSON a run. `monitor` starts a machine as a process, `guest` is what runs in it, `meter` reads the process's clock
//! while it does, `machine` is the process where the machine is ours.

#![forbid(unsafe_code)]

mod guest;
mod machine;
mod meter;
mod monitor;
mod workload;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vm_model::MemoryBacking;

use guest::Guest;
use meter::Cost;
use monitor::Monitor;
use workload::Workload;

/// One run, as it is printed.
#[derive(Serialize)]
struct Line<'run> {
    monitor: &'run str,
    workload: &'run str,
    /// Of work; none where the workload is booting.
    mebibytes: u64,
    #[serde(flatten)]
    cost: Cost,
}

const USAGE: &str = "usage: stock measure RUNS | stock machine KERNEL INITRD DISK shared|thp CMDLINE";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", runs] => measure(runs.parse().context("RUNS is no number")?),
        ["machine", kernel, initrd, disk, memory, cmdline] => {
            let backing = match memory {
                "shared" => MemoryBacking::SharedMemfd,
                "thp" => MemoryBacking::AnonymousHuge,
                _ => bail!("{USAGE}"),
            };
            machine::run([kernel, initrd, disk].map(Path::new), backing, cmdline)
        }
        _ => bail!("{USAGE}"),
    }
}

/// Every workload under every monitor, one after the other, and that again.
fn measure(runs: u32) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a folder for files")?;
    let guest = Guest::prepare(scratch.path())?;
    let monitors = monitor::find();
    let mut output = std::io::stdout().lock();
    for _ in 0..runs {
        for workload in Workload::ALL {
            for monitor in &monitors {
                let cost = run(*monitor, &guest, workload)
                    .with_context(|| format!("{} under {}", workload.name(), monitor.name()))?;
                let mebibytes = workload.mebibytes();
                let line = Line { monitor: monitor.name(), workload: workload.name(), mebibytes, cost };
                serde_json::to_writer(&mut output, &line)?;
                output.write_all(b"\n")?;
                output.flush()?;
            }
        }
    }
    Ok(())
}

fn run(monitor: Monitor, guest: &Guest, workload: Workload) -> Result<Cost> {
    let peer = workload.start_peer()?;
    let process = monitor.start(guest, workload)?;
    let cost = meter::follow(process)?;
    peer.join()?;
    monitor::leave_bridge()?;
    Ok(cost)
}

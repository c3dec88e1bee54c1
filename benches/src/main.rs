//! The program that `cargo xtask bench` measures this project with.
//!
//! It reads one order a line (`boot`, `hold 16`, …) and answers each with one line of JSON, so that whoever drives it
//! can run other programs in between and compare both under the same conditions. Its arguments are the command line of a
//! host process. What is measured how is in `machines`, `processes`, `confined`, `faults`, `many`,
//! `assigned`, `network`, `planning`, `storage` and `first_start`; repetition,
//! statistics and tables are the driver's.

#![forbid(unsafe_code)]

mod answer;
mod answering;
mod assigned;
mod children;
mod confined;
mod faults;
mod first_start;
mod machines;
mod many;
mod network;
mod order;
mod planning;
mod processes;
mod storage;

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

use answer::Answer;
use confined::Confined;
use machines::Fleet;
use order::Order;
use processes::Processes;
use storage::Storage;

/// Descriptors to make room for: about ten a machine.
const DESCRIPTORS: u32 = 16_384;

fn main() -> Result<()> {
    raise_descriptor_limit()?;
    // While there is one thread: see the function's description.
    vmm_host::presize_fd_table(DESCRIPTORS).context("cannot make room for descriptors")?;
    let scratch = tempfile::tempdir().context("cannot make a folder for files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let program: Vec<_> = std::env::args_os().skip(1).collect();
    let mut fleet = Fleet::new(scratch.path())?;
    let mut processes = Processes::new(program.clone(), scratch.path(), fleet.guest_path());
    let mut confined = Confined::new(program.clone(), scratch.path(), fleet.guest_path());
    let storage = Storage::new(scratch.path())?;
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read an order")?;
        let answer = match line.parse()? {
            Order::ProcessBoot(spare) => runtime.block_on(processes.boot(spare)).map(Answer::Nanoseconds)?,
            Order::ProcessMemory(count, each) => {
                runtime.block_on(processes.memory(count, each)).map(Answer::Amounts)?
            }
            Order::ProcessEnd => {
                runtime.block_on(processes.end())?;
                Answer::Nanoseconds(Vec::new())
            }
            Order::Confined(work, layers) => confined.measure(&runtime, work, layers).map(Answer::Amounts)?,
            Order::Fault => faults::copy_on_write().map(Answer::Nanoseconds)?,
            Order::Many(many) => many.measure(program.clone(), scratch.path()).map(Answer::Nanoseconds)?,
            Order::Assign(count) => {
                assigned::measure(count, program.clone(), scratch.path()).map(Answer::Nanoseconds)?
            }
            Order::Taps(count) => network::taps(count).map(Answer::Nanoseconds)?,
            Order::Neighbours(turns) => network::neighbours(turns).map(Answer::Amounts)?,
            Order::Records(count) => storage.load_records(count).map(Answer::Nanoseconds)?,
            Order::Plan(count) => planning::plan(count).map(Answer::Nanoseconds)?,
            Order::Leases(count) => planning::change_leases(count).map(Answer::Nanoseconds)?,
            Order::Guest => Answer::Path(fleet.guest_path().to_owned()),
            Order::Hold(count) => runtime.block_on(fleet.hold(count)).map(Answer::Nanoseconds)?,
            Order::Boot(count) => runtime.block_on(fleet.boot(count)).map(Answer::Nanoseconds)?,
            Order::Stop => runtime.block_on(fleet.stop_one()).map(Answer::Nanoseconds)?,
            Order::Reset => runtime.block_on(fleet.reset_one()).map(Answer::Nanoseconds)?,
            Order::Hash => storage.hash().map(Answer::Nanoseconds)?,
            Order::CopyDisk => storage.copy_disk().map(Answer::Nanoseconds)?,
            Order::FirstStart(mebibytes) => {
                first_start::measure(scratch.path(), mebibytes).map(Answer::Nanoseconds)?
            }
            Order::WriteRecord => storage.write_record().map(Answer::Nanoseconds)?,
        };
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    runtime.block_on(processes.end())?;
    runtime.block_on(fleet.hold(0))?;
    Ok(())
}

fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit on open files")
}

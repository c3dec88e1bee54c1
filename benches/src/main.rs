//! The program that `cargo xtask bench` measures this project with.
//!
//! It reads one order a line (`boot`, `hold 16`, …) and answers each with one line of JSON, so that whoever drives it
//! can run other programs in between and compare both under the same conditions. What is measured how is in
//! `machines` and `storage`; repetition, statistics and tables are the driver's.

#![forbid(unsafe_code)]

mod answer;
mod machines;
mod order;
mod storage;

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

use answer::Answer;
use machines::Fleet;
use order::Order;
use storage::Storage;

/// Descriptors to make room for: about ten a machine.
const DESCRIPTORS: u32 = 16_384;

fn main() -> Result<()> {
    raise_descriptor_limit()?;
    // While there is one thread: see the function's description.
    vmm_host::presize_fd_table(DESCRIPTORS).context("cannot make room for descriptors")?;
    let scratch = tempfile::tempdir().context("cannot make a folder for files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .context("cannot start the runtime")?;
    let mut fleet = Fleet::new(scratch.path())?;
    let storage = Storage::new(scratch.path())?;
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read an order")?;
        let answer = match line.parse()? {
            Order::Guest => Answer::Path(fleet.guest_path().to_owned()),
            Order::Hold(count) => runtime.block_on(fleet.hold(count)).map(Answer::Nanoseconds)?,
            Order::Boot(count) => runtime.block_on(fleet.boot(count)).map(Answer::Nanoseconds)?,
            Order::Stop => runtime.block_on(fleet.stop_one()).map(Answer::Nanoseconds)?,
            Order::Reset => runtime.block_on(fleet.reset_one()).map(Answer::Nanoseconds)?,
            Order::Hash => storage.hash().map(Answer::Nanoseconds)?,
            Order::CopyDisk => storage.copy_disk().map(Answer::Nanoseconds)?,
            Order::WriteRecord => storage.write_record().map(Answer::Nanoseconds)?,
        };
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    runtime.block_on(fleet.hold(0))?;
    Ok(())
}

fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit on open files")
}

//! What a host keeps when its power is cut while its worker is at work. `cargo xtask vm-test --power` runs this in a host that
//! is killed when the test asks for that, and booted again; the test begins anew then, and goes by what it finds at `/kept`.

#![expect(clippy::print_stdout, reason = "what was found tells how much was tried")]

mod ledger;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Environment, Image, Never, Place, Records, SHORT_DEADLINE, Worker, records,
    until,
};

use crate::ledger::Ledger;

const MEBIBYTE: u64 = 1 << 20;
/// Where the disk is that outlives the host.
const KEPT: &str = "/kept";
/// When power is cut, in milliseconds after the worker begins to change things; once for each.
const CUTS: [u64; 4] = [400, 2_500, 5_000, 9_000];
/// A VM whose guest writes records, and one that serves a page.
const DB: &str = "db";
const WEB: &str = "web";

#[test]
fn what_was_acknowledged_is_there_after_each_power_cut() -> Result<()> {
    let environment = Environment::from_variables()?;
    let guest = environment.image("guest")?;
    let state = Path::new(KEPT).join("state");
    let mut ledger = Ledger::open(Path::new(KEPT))?;
    let place = Arc::new(Place::new("removal_grace_seconds = 0\n")?.with_state_at(&state)?);
    if ledger.cuts() > 0 {
        println!("\nafter {} power cuts: {ledger:?}", ledger.cuts());
        print_unreadable("before the worker starts", &state)?;
        // What should run is what the worker has on record.
        place.remove_assignments()?;
    }
    let worker = Worker::start_at(&environment, &place)?;
    if ledger.cuts() == 0 {
        worker.assign(&Wish::default().assignments(&guest))?;
    }
    for id in [DB, WEB] {
        let vm = worker.wait_until_answering(id)?;
        ledger.expect_address(id, vm.address()?)?;
    }
    let found = until("records are written to both disks", BOOT_DEADLINE, || {
        let found = records(worker.vm(DB)?.address()?)?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(found)
    })?;
    for (disk, found) in &found {
        println!("{disk}: {found:?}");
        ledger.expect_records(disk, found.intact)?;
    }
    ledger.write_records(acknowledged(found))?;
    ensure!(print_unreadable("with the worker", &state)? == 0, "a file of the state directory is not whole");
    let status = worker.status()?;
    ensure!(status["damaged"].as_array().is_none_or(Vec::is_empty), "{status}");

    let Some(after) = CUTS.get(ledger.cuts()) else { return end(worker, &state) };
    ledger.count_cut()?;
    println!("\n@@lab power-cut {after}");
    change_until_power_is_cut(&worker, &guest, &mut ledger)
}

/// The host is as it was before there were VMs.
fn end(worker: Worker, state: &Path) -> Result<()> {
    worker.assign(&[])?;
    worker.wait_until_gone(DB)?;
    worker.wait_until_gone(WEB)?;
    until("nothing is left", SHORT_DEADLINE, || {
        for directory in ["vms", "volumes"] {
            let left = fs::read_dir(state.join(directory)).context("a directory of the worker")?.count();
            ensure!(left == 0, "{left} entries in {directory}");
        }
        Ok(())
    })?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// What is assigned beside what never changes.
#[derive(Clone, Debug, Default)]
struct Wish {
    turn: u64,
}

impl Wish {
    /// The next one: VMs come and go, are started by another definition, and get a disk.
    fn next(&self) -> Self {
        Self { turn: self.turn + 1 }
    }

    fn assignments(&self, guest: &Image) -> Vec<Assignment> {
        let memory = (128 + 16 * (self.turn % 3)) * MEBIBYTE;
        let db = Assignment::of(guest, DB).with_cmdline("records").with_disk("data", MEBIBYTE);
        let web = Assignment::of(guest, WEB).with_memory(memory);
        let mut assignments = vec![web, if self.turn % 4 == 3 { db.with_memory(144 * MEBIBYTE) } else { db }];
        if self.turn % 2 == 1 {
            let id = format!("extra-{}", self.turn % 5);
            assignments.push(Assignment::of(guest, &id).with_disk("scratch", MEBIBYTE).stopped());
        }
        assignments
    }
}

/// Writes down what the guest acknowledges, and gives the worker something else to do again and again.
fn change_until_power_is_cut(worker: &Worker, guest: &Image, ledger: &mut Ledger) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(300);
    let end = Instant::now() + BOOT_DEADLINE;
    let mut wish = Wish::default();
    while Instant::now() < end {
        wish = wish.next();
        worker.assign(&wish.assignments(guest))?;
        // On its way to another definition it does not answer.
        if let Ok(found) = worker.vm(DB).and_then(|vm| records(vm.address()?)) {
            ledger.write_records(acknowledged(found))?;
        }
        thread::sleep(PAUSE);
    }
    bail!(Never("nobody cut the power".to_owned()))
}

/// How many records of each disk are acknowledged.
fn acknowledged(records: BTreeMap<String, Records>) -> BTreeMap<String, u64> {
    records.into_iter().map(|(disk, records)| (disk, records.acknowledged)).collect()
}

/// Tells of every record in the state directory that is not whole, and returns how many there are.
fn print_unreadable(when: &str, state: &Path) -> Result<usize> {
    let mut unreadable = 0;
    for path in files_below(state)? {
        if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if let Err(problem) = serde_json::from_slice::<serde_json::Value>(&bytes) {
                println!("{when}, {} of {} bytes: {problem}", path.display(), bytes.len());
                unreadable += 1;
            }
        }
    }
    Ok(unreadable)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        if entry.file_type().with_context(|| format!("cannot examine {:?}", entry.path()))?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

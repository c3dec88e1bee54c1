//! Guests under load while they are paused and resumed: nothing is lost, and their kernels notice nothing.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, Worker, http_get};

use crate::environment;

const MEBIBYTE: usize = 1 << 20;
/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(150);

#[test]
#[ignore = "full: minutes of load"]
fn load_goes_on_through_pauses_without_an_error() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    let busy = Assignment::of(&guest, "busy");
    worker.assign(std::slice::from_ref(&busy))?;
    let vm = worker.wait_until_answering("busy")?;
    let address = vm.address()?;
    let complaints_before = complaints(address)?;

    let is_over = AtomicBool::new(false);
    let (pauses, megabytes, files) = thread::scope(|scope| {
        let network = scope.spawn(|| repeat(&is_over, || fetch(address)));
        let disk = scope.spawn(|| repeat(&is_over, || write_and_read(address)));
        let pauses = pause_again_and_again(&worker, &busy);
        is_over.store(true, Ordering::Relaxed);
        let joined = |thread: thread::ScopedJoinHandle<'_, Result<u32>>| thread.join().expect("no panic");
        (pauses, joined(network), joined(disk))
    });
    let (pauses, megabytes, files) =
        (pauses?, megabytes.context("network load")?, files.context("disk load")?);
    println!("{megabytes} MiB over the network and {files} files over the disk, in {pauses} pauses");
    ensure!(pauses >= 10 && megabytes >= 10 && files >= 5, "too little happened");

    let after = complaints(address)?;
    let new: Vec<&String> = after.iter().filter(|line| !complaints_before.contains(line)).collect();
    ensure!(new.is_empty(), "the guest's kernel complains: {new:#?}");
    assert_eq!(worker.vm("busy")?.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// Does something until told that it is over. Returns how often.
fn repeat(is_over: &AtomicBool, mut work: impl FnMut() -> Result<()>) -> Result<u32> {
    let mut times = 0;
    while !is_over.load(Ordering::Relaxed) {
        work()?;
        times += 1;
    }
    Ok(times)
}

/// A mebibyte from the guest.
fn fetch(address: Ipv4Addr) -> Result<()> {
    let page = http_get(address, "/megabyte")?;
    ensure!(page.len() == MEBIBYTE, "a page of {} bytes", page.len());
    Ok(())
}

/// Two mebibytes of zeroes to the guest's disk and back.
fn write_and_read(address: Ipv4Addr) -> Result<()> {
    const TWO_MEBIBYTES_OF_ZEROES: &str = "b2d1236c286a3c0704224fe4105eca49";
    let digest = http_get(address, "/cgi-bin/disk?2")?;
    let digest = String::from_utf8_lossy(&digest);
    ensure!(digest.starts_with(TWO_MEBIBYTES_OF_ZEROES), "read back: {digest}");
    Ok(())
}

/// Pauses the VM for a while, lets it run for a while, and so on. Returns how often.
fn pause_again_and_again(worker: &Worker, assignment: &Assignment) -> Result<u32> {
    let end = Instant::now() + LOAD;
    let mut times = 0;
    while Instant::now() < end {
        worker.assign(&[assignment.clone().paused()])?;
        worker.wait_for_phase("busy", "paused")?;
        // Not a wait for something: this is how long the guest stands still, and then how long it runs.
        thread::sleep(Duration::from_millis(500 * u64::from(times % 5)));
        worker.assign(std::slice::from_ref(assignment))?;
        worker.wait_for_phase("busy", "running")?;
        thread::sleep(Duration::from_secs(2));
        times += 1;
    }
    Ok(times)
}

/// Lines of the kernel's log that are errors or worse, or speak of time that was lost.
fn complaints(address: Ipv4Addr) -> Result<Vec<String>> {
    let log = String::from_utf8_lossy(&http_get(address, "/cgi-bin/log")?).into_owned();
    ensure!(log.contains("Linux version"), "no kernel log: {log}");
    let is_complaint = |line: &&str| {
        let is_error = ["<0>", "<1>", "<2>", "<3>"].iter().any(|level| line.starts_with(level));
        is_error || ["stall", "lockup", "unstable", "hung"].iter().any(|word| line.contains(word))
    };
    Ok(log.lines().filter(is_complaint).map(str::to_owned).collect())
}

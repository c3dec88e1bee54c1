//! Guests under load while they are paused and resumed: nothing is lost or changed on its way, their clocks are right
//! afterwards, and their kernels notice nothing.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, SHORT_DEADLINE, Worker, ensure_same, http_get, http_post, noise, until};

use crate::clock::GuestClock;
use crate::environment;

const MEBIBYTE: usize = 1 << 20;
/// What is written to the disk at a time.
const FILE: usize = MEBIBYTE;
/// The VM.
const BUSY: &str = "busy";

#[test]
fn load_goes_on_through_pauses() -> Result<()> {
    load_through_pauses(3)
}

#[test]
#[ignore = "full: minutes of load"]
fn load_goes_on_through_many_pauses() -> Result<()> {
    load_through_pauses(40)
}

/// Between any two pauses each load has to get on: both were under way when the guest stopped, so that what a pause
/// can spoil was there to be spoilt.
#[expect(clippy::print_stdout, reason = "how much was carried tells how much was tried")]
fn load_through_pauses(pauses: u32) -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    let busy = Assignment::of(&guest, BUSY);
    worker.assign(std::slice::from_ref(&busy))?;
    let address = worker.wait_until_answering(BUSY)?.address()?;

    let (network, disk, is_over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let fetching = scope.spawn(|| repeat(&is_over, &network, |_| fetch(address)));
        let storing = scope.spawn(|| repeat(&is_over, &disk, |round| store_and_read_back(address, round)));
        let paused = pause_again_and_again(&worker, &busy, address, pauses, &[&network, &disk]);
        is_over.store(true, Ordering::Relaxed);
        let joined = |thread: ScopedJoinHandle<'_, Result<()>>| thread.join().expect("no panic");
        let (fetched, stored) = (joined(fetching), joined(storing));
        // A load that failed is why the wait for it did.
        fetched.context("network load").and(stored.context("disk load")).and(paused)
    })?;
    let (megabytes, files) = (network.into_inner(), disk.into_inner());
    println!("{megabytes} MiB over the network and {files} files over the disk, in {pauses} pauses");

    until("the figures tell that the disk was read", SHORT_DEADLINE, || {
        let vm = worker.vm(BUSY)?;
        let metrics = vm.metrics()?;
        let through_the_disk = u64::from(files) * FILE as u64;
        let (read, written) = (metrics.disk_read_bytes, metrics.disk_write_bytes);
        ensure!(
            read.min(written) >= through_the_disk,
            "{read} bytes read, {written} written in {files} files"
        );
        ensure!(metrics.disk_errors == 0, "{} requests failed", metrics.disk_errors);
        Ok(())
    })?;
    ensure_no_complaints(address)?;
    assert_eq!(worker.vm(BUSY)?.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// Does something until told that it is over, and counts it.
fn repeat(is_over: &AtomicBool, done: &AtomicU32, mut work: impl FnMut(u32) -> Result<()>) -> Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        let round = done.load(Ordering::Relaxed);
        work(round).with_context(|| format!("round {round}"))?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A mebibyte from the guest: numbers in order, so that no piece of it is like another.
fn fetch(address: Ipv4Addr) -> Result<()> {
    let numbers: Vec<String> = (1..=200_000).map(|number: u32| number.to_string()).collect();
    let expected = &numbers.join("\n").into_bytes()[..MEBIBYTE];
    ensure_same(&http_get(address, "/megabyte")?, expected)
}

/// A file of noise to the guest's disk and back from it. Each round has other noise, at the place of the last one's.
fn store_and_read_back(address: Ipv4Addr, round: u32) -> Result<()> {
    let file = noise(u64::from(round), FILE);
    ensure_same(&http_post(address, "/cgi-bin/store", &file)?, &file)
}

/// Pauses the VM for a while, lets it run until each load got on, and so on.
fn pause_again_and_again(
    worker: &Worker,
    assignment: &Assignment,
    address: Ipv4Addr,
    pauses: u32,
    loads: &[&AtomicU32],
) -> Result<()> {
    let before = GuestClock::read(address)?;
    for pause in 0..pauses {
        worker.assign(&[assignment.clone().paused()])?;
        worker.wait_for_phase(BUSY, "paused")?;
        let done: Vec<u32> = loads.iter().map(|load| load.load(Ordering::Relaxed)).collect();
        // Not a wait for something: this is how long the guest stands still.
        thread::sleep(Duration::from_millis(500 * u64::from(pause % 5)));
        worker.assign(std::slice::from_ref(assignment))?;
        worker.wait_for_phase(BUSY, "running")?;
        until("both loads get on after a pause", SHORT_DEADLINE, || {
            let now = loads.iter().map(|load| load.load(Ordering::Relaxed));
            let got_on = done.iter().zip(now).all(|(done, now)| now > *done);
            ensure!(got_on, "pause {pause}: {loads:?} after {done:?}");
            Ok(())
        })?;
    }
    GuestClock::read(address)?.ensure_went_on_like_the_hosts_since(&before)
}

/// Fails where the kernel's log, from its first line on, has an error or something worse, or speaks of lost time.
fn ensure_no_complaints(address: Ipv4Addr) -> Result<()> {
    const WORDS: [&str; 7] = ["stall", "lockup", "unstable", "hung", "WARNING", "BUG", "timed out"];
    // What a stock kernel says of an emulated host's processor: it has no constant TSC, and it takes what the kernel
    // writes to XCR0 without telling KVM, whose size of the save area in CPUID then is that of before.
    const OF_THE_PROCESSOR: [&str; 2] =
        ["Marking TSC unstable due to TSCs unsynchronized", "at arch/x86/kernel/fpu/xstate.c"];
    let log = String::from_utf8_lossy(&http_get(address, "/cgi-bin/log")?).into_owned();
    ensure!(log.contains("Linux version"), "the kernel's log has lost its beginning: {log}");
    let is_complaint = |line: &&str| {
        if OF_THE_PROCESSOR.iter().any(|known| line.contains(known)) {
            return false;
        }
        let is_error = ["<0>", "<1>", "<2>", "<3>"].iter().any(|level| line.starts_with(level));
        is_error || WORDS.iter().any(|word| line.contains(word))
    };
    let complaints: Vec<&str> = log.lines().filter(is_complaint).collect();
    ensure!(complaints.is_empty(), "the guest's kernel complains: {complaints:#?}");
    Ok(())
}

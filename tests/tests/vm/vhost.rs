//! Frames moved by the host's kernel instead of the worker.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, SHORT_DEADLINE, Worker, host_process_of, http_get, until};

use crate::endings::end_from_within;
use crate::environment;

const VHOST_NET: &str = "[network]\nvhost_net = true\n";
const PAUSES: u32 = 5;

#[test]
fn the_kernel_moves_frames_through_pauses_and_counts_them() -> Result<()> {
    let environment = environment();
    let image = environment.image("everything")?;
    let worker = Worker::start_with(&environment, VHOST_NET)?;
    let assignment = Assignment::of(&image, "fast");
    worker.assign(std::slice::from_ref(&assignment))?;
    let vm = worker.wait_until_answering("fast")?;
    ensure!(vm.warnings.iter().all(|warning| !warning.contains("kernel")), "{:?}", vm.warnings);
    // One for each of the two pairs of queues, kept twice: once for the machine that comes after a reset.
    assert_eq!(back_ends("fast")?, 4);

    let address = vm.address()?;
    let is_over = AtomicBool::new(false);
    let fetched = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut times = 0_u64;
            while !is_over.load(Ordering::Relaxed) || times == 0 {
                let page = http_get(address, "/megabyte")?;
                ensure!(page.len() == 1 << 20, "a page of {} bytes", page.len());
                times += 1;
            }
            Ok(times)
        });
        let paused = pause_and_resume(&worker, &assignment);
        is_over.store(true, Ordering::Relaxed);
        paused.and(load.join().expect("no panic"))
    })?;
    until("what the guest sent is counted", SHORT_DEADLINE, || {
        let vm = worker.vm("fast")?;
        let sent = vm.metrics()?.network_tx_bytes;
        ensure!(sent >= fetched << 20, "{sent} bytes sent of {fetched} MiB");
        Ok(())
    })?;
    assert_eq!(worker.vm("fast")?.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots twice"]
fn the_kernel_moves_frames_after_a_reset_too() -> Result<()> {
    let environment = environment();
    let image = environment.image("everything")?;
    let worker = Worker::start_with(&environment, VHOST_NET)?;
    worker.assign(&[Assignment::of(&image, "fast")])?;
    let first = worker.wait_until_answering("fast")?;
    end_from_within(&first, "reboot")?;
    until("the reset is counted", SHORT_DEADLINE, || {
        let vm = worker.vm("fast")?;
        ensure!(vm.resets == 1, "{} resets; {}", vm.resets, vm.state());
        Ok(())
    })?;
    let second = worker.wait_until_answering("fast")?;
    assert_eq!(second.address, first.address);
    assert_eq!(back_ends("fast")?, 4);
    let page = http_get(second.address()?, "/megabyte")?;
    ensure!(page.len() == 1 << 20, "a page of {} bytes", page.len());
    // The TAP's own figures went on over the reset, and are counted once.
    until("what both guests sent is counted", SHORT_DEADLINE, || {
        let sent = worker.vm("fast")?.metrics()?.network_tx_bytes;
        ensure!((1 << 20..3 << 20).contains(&sent), "{sent} bytes sent");
        Ok(())
    })?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

fn pause_and_resume(worker: &Worker, assignment: &Assignment) -> Result<()> {
    for _ in 0..PAUSES {
        worker.assign(&[assignment.clone().paused()])?;
        worker.wait_for_phase("fast", "paused")?;
        worker.assign(std::slice::from_ref(assignment))?;
        worker.wait_for_phase("fast", "running")?;
    }
    Ok(())
}

/// How many of the kernel's back ends the process that holds `vm` has open.
fn back_ends(vm: &str) -> Result<usize> {
    let pid = host_process_of(vm)?.context("no process holds it")?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list its descriptors")?;
    // Descriptors come and go while they are listed.
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(targets.filter(|target| target.as_path() == Path::new("/dev/vhost-net")).count())
}

//! A machine with every device under a stock kernel: its drivers find them and use them.

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, SHORT_DEADLINE, Worker, http_get, until};

use crate::{environment, sockets};

/// What the image gives its guest, and what its balloon asks back from the start on.
const MEMORY: u64 = 128 << 20;
const BALLOON: u64 = 32 << 20;

#[test]
fn a_stock_kernel_uses_every_device() -> Result<()> {
    let environment = environment();
    let image = environment.image("everything")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&image, "everything")])?;
    let vm = worker.wait_until_answering("everything")?;

    let found = String::from_utf8_lossy(&http_get(vm.address()?, "/cgi-bin/devices")?).into_owned();
    let expected = [
        "network-queues 2",
        "network-mtu 1400",
        "disk-queues 2",
        "disk-serial root-disk",
        // Disk, network, entropy, balloon, sockets, console.
        "drivers 6",
        "watchdog 1",
    ];
    for line in expected {
        ensure!(found.lines().any(|found| found == line), "{line:?} is not in\n{found}");
    }
    until("what the guest wrote to its virtio console is recorded", SHORT_DEADLINE, || {
        let console = worker.console_of("everything")?;
        ensure!(console.contains("hello from hvc0"), "{console}");
        Ok(())
    })?;
    until("the guest gave up what its balloon asks for", SHORT_DEADLINE, || gave_memory_up(&worker))?;
    sockets::carry_bytes_both_ways(&worker, "everything", vm.address()?)?;
    // More than one queue of either kind carries something.
    let megabyte = http_get(vm.address()?, "/megabyte")?;
    ensure!(megabyte.len() == 1 << 20, "a page of {} bytes", megabyte.len());
    http_get(vm.address()?, "/cgi-bin/disk?4")?;
    assert_eq!(worker.vm("everything")?.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// The guest's driver, the host's figures and the host's memory agree on how much is gone.
fn gave_memory_up(worker: &Worker) -> Result<()> {
    let vm = worker.vm("everything")?;
    let devices = String::from_utf8_lossy(&http_get(vm.address()?, "/cgi-bin/devices")?).into_owned();
    let pages = devices.lines().find_map(|line| line.strip_prefix("balloon-pages "));
    let pages: u64 = pages.context("the guest has no count of its balloon's pages")?.parse()?;
    ensure!(pages >= BALLOON >> 12, "the guest's balloon has {pages} pages");
    let metrics = vm.metrics()?;
    let balloon = metrics.balloon.as_ref().context("the figures lack the balloon")?;
    ensure!((balloon.target_bytes, balloon.actual_bytes) == (BALLOON, BALLOON), "{balloon:?}");
    ensure!(balloon.discarded_bytes >= BALLOON && balloon.refused_pages == 0, "{balloon:?}");
    ensure!(metrics.memory_resident_bytes <= MEMORY - BALLOON, "{metrics:?}");
    let available = metrics.memory_available_bytes.context("the guest does not tell what is available")?;
    ensure!(available > 0 && available <= MEMORY - BALLOON, "{metrics:?}");
    Ok(())
}

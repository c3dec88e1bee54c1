//! A machine with every device under a stock kernel: its drivers find them and use them.

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, SHORT_DEADLINE, Worker, http_get, until};

use crate::environment;

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
    until("the balloon tells how much memory is available", SHORT_DEADLINE, || {
        let vm = worker.vm("everything")?;
        let available = vm.metrics()?.memory_available_bytes.context("not told")?;
        ensure!(available > 0 && available < 128 << 20, "{available}");
        Ok(())
    })?;
    // More than one queue of either kind carries something.
    let megabyte = http_get(vm.address()?, "/megabyte")?;
    ensure!(megabyte.len() == 1 << 20, "a page of {} bytes", megabyte.len());
    http_get(vm.address()?, "/cgi-bin/disk?4")?;
    assert_eq!(worker.vm("everything")?.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

//! A VM's whole life: created, answering, measured, removed, with nothing left.

use anyhow::{Result, ensure};
use end_to_end::{
    Assignment, HostState, ObservedVm, ProcessState, SHORT_DEADLINE, Worker, http_get, ping, until,
};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;

#[test]
fn two_vms_answer_are_measured_and_leave_nothing() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let before = HostState::observe()?;
    // Else what the guest of a removed VM wrote would be kept for a day.
    let worker = Worker::start_with(&environment, "removal_grace_seconds = 0\n")?;

    let web_2 = Assignment::of(&guest, "web-2");
    worker.assign(&[Assignment::of(&guest, "web-1"), web_2.clone()])?;
    let first = worker.wait_until_answering("web-1")?;
    let second = worker.wait_until_answering("web-2")?;
    assert_ne!(first.address, second.address);
    assert_ne!(first.mac, second.mac);
    assert_eq!(HostState::taps()?.len(), 2);

    sees_its_machine(&first)?;
    reaches(&first, &second)?;
    reaches(&second, &first)?;
    let console = worker.console_of("web-1")?;
    assert!(console.contains("procurator-guest ready"), "{console}");
    load_shows(&worker, "web-1")?;

    worker.assign(&[web_2])?;
    worker.wait_until_gone("web-1")?;
    assert!(!worker.vm_directory("web-1").exists(), "its directory is gone");
    assert_eq!(
        HostState::taps()?,
        second.tap.clone().into_iter().collect(),
        "its TAP is gone, the other is not"
    );
    let untouched = worker.vm("web-2")?;
    assert_eq!((untouched.phase.as_str(), untouched.restarts), ("running", 0));
    assert_eq!(untouched.address, second.address);
    ping(second.address()?)?;

    let ended = worker.terminate()?;
    assert!(ended.status.success(), "{:?}", ended.status);
    let log = ended.log_of("web-2")?;
    assert!(log.iter().any(|line| line.contains("PoweredOff")), "stopped by its power button: {log:?}");
    assert_eq!(HostState::observe()?, before);
    Ok(())
}

#[test]
fn a_restarted_worker_keeps_addresses_and_disks_are_private() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&guest, "a")])?;
    let running = worker.wait_until_answering("a")?;

    worker.assign(&[Assignment::of(&guest, "a").stopped()])?;
    let stopped = worker.wait_for_phase("a", "stopped")?;
    assert_eq!(stopped.address, running.address, "a VM that is off keeps its address");
    assert!(HostState::taps()?.is_empty(), "and has no TAP");
    assert_eq!(stopped.last_stop.as_deref(), Some("power_button"));

    worker.assign(&[Assignment::of(&guest, "a").with_memory(192 * MEBIBYTE)])?;
    let again = worker.wait_until_answering("a")?;
    assert_eq!(again.address, running.address);
    assert_eq!(again.metrics()?.memory_size_bytes, 192 * MEBIBYTE, "the changed assignment holds");
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots three times"]
fn create_and_remove_cycles_return_to_the_baseline() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    // The first cycle brings up what stays: the bridge, the DHCP responder, the runtime's threads.
    cycle(&worker, &Assignment::of(&guest, "warm-up"), "warm-up")?;
    let baseline = ProcessState::observe(worker.pid())?;
    let host = HostState::observe()?;
    for round in 1..=3 {
        let id = format!("round-{round}");
        cycle(&worker, &Assignment::of(&guest, &id), &id)?;
        until("descriptors and threads are back", SHORT_DEADLINE, || {
            let now = ProcessState::observe(worker.pid())?;
            // The runtime ends threads that had nothing to do for a while.
            let is_back = now.descriptors == baseline.descriptors && now.threads <= baseline.threads;
            ensure!(is_back, "{now:?} after round {round}, {baseline:?} before");
            Ok(())
        })?;
        assert_eq!(HostState::observe()?, host);
    }
    assert!(worker.terminate()?.status.success());
    Ok(())
}

fn cycle(worker: &Worker, assignment: &Assignment, id: &str) -> Result<()> {
    worker.assign(std::slice::from_ref(assignment))?;
    worker.wait_until_answering(id)?;
    worker.assign(&[])?;
    worker.wait_until_gone(id)
}

/// The guest has the processors and the memory that its image asks for.
fn sees_its_machine(vm: &ObservedVm) -> Result<()> {
    let facts = http_get(vm.address()?, "/cgi-bin/facts")?;
    let facts = String::from_utf8_lossy(&facts);
    ensure!(facts.contains("processors 2\n"), "{facts}");
    ensure!(facts.contains("root=/dev/vda"), "{facts}");
    Ok(())
}

/// One guest fetches the other's page.
fn reaches(from: &ObservedVm, to: &ObservedVm) -> Result<()> {
    let page = http_get(from.address()?, &format!("/cgi-bin/fetch?{}", to.address()?))?;
    let page = String::from_utf8_lossy(&page);
    ensure!(page.contains(&to.address()?.to_string()), "{} got from {}: {page:?}", from.id, to.id);
    Ok(())
}

/// What a guest does shows in its figures, by at least as much as it did.
fn load_shows(worker: &Worker, id: &str) -> Result<()> {
    let idle = until("first figures", SHORT_DEADLINE, || worker.vm(id)?.metrics().cloned())?;
    let address = worker.vm(id)?.address()?;
    let megabyte = http_get(address, "/megabyte")?;
    ensure!(megabyte.len() as u64 == MEBIBYTE, "a page of {} bytes", megabyte.len());
    http_get(address, "/cgi-bin/disk?4")?;
    http_get(address, "/cgi-bin/compute?16")?;
    until("the load shows in the figures", SHORT_DEADLINE, || {
        let vm = worker.vm(id)?;
        let busy = vm.metrics()?;
        ensure!(busy.cpu_percent > 0.0, "cpu_percent is {}", busy.cpu_percent);
        ensure!(busy.memory_mb > 0 && busy.memory_size_bytes == 128 * MEBIBYTE, "{busy:?}");
        ensure!(busy.network_tx_bytes >= idle.network_tx_bytes + MEBIBYTE, "{busy:?} after {idle:?}");
        ensure!(busy.network_rx_bytes > idle.network_rx_bytes, "{busy:?} after {idle:?}");
        ensure!(busy.disk_write_bytes >= idle.disk_write_bytes + 4 * MEBIBYTE, "{busy:?} after {idle:?}");
        ensure!(busy.disk_read_bytes >= idle.disk_read_bytes + 4 * MEBIBYTE, "{busy:?} after {idle:?}");
        Ok(())
    })
}

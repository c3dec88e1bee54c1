//! Guests outlive their worker, however that ends, and the loss of one host process is felt by its own guest alone.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Echoes, HostState, Place, SHORT_DEADLINE, Transfer, Worker, host_process_of,
    http_get, records_on, until,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;

#[test]
fn guests_do_not_notice_that_their_worker_is_killed_or_restarted() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let before = HostState::observe()?;
    let place = Arc::new(Place::new("")?);
    let worker = Worker::start_leaving(&environment, &place)?;
    let db = Assignment::of(&guest, "db").with_cmdline("records").with_disk("data", MEBIBYTE);
    worker.assign(&[db, Assignment::of(&guest, "web")])?;
    let (db, web) = (worker.wait_for_phase("db", "running")?, worker.wait_until_answering("web")?);
    let written = || Ok::<_, anyhow::Error>(records_on(db.address()?, "data")?.acknowledged);
    let first = until("the first records", BOOT_DEADLINE, written)?;
    let console = worker.console_of("web")?;
    let echoes = Echoes::of(web.address()?);
    let transfer = until("a transfer begins", SHORT_DEADLINE, || Transfer::with(web.address()?))?;

    worker.kill()?;
    until("records are written without a worker", SHORT_DEADLINE, || {
        let now = written()?;
        ensure!(now > first, "{now} now, {first} before");
        Ok(())
    })?;
    let worker = Worker::start_leaving(&environment, &place)?;
    let again = worker.vm("web")?;
    assert_eq!((again.phase.as_str(), again.started_at), ("running", web.started_at), "{}", again.state());
    assert_eq!(again.address, web.address);
    assert!(worker.console_of("web")?.starts_with(&console), "its console was written meanwhile");

    assert!(worker.terminate()?.status.success());
    http_get(web.address()?, "/")?;
    let worker = Worker::start_at(&environment, &place)?;
    let last = worker.vm("db")?;
    assert_eq!((last.started_at, last.restarts), (db.started_at, 0), "{}", last.state());
    let now = written()?;
    ensure!(now > first, "{now} records now, {first} before");

    let heard = echoes.stop()?;
    println!("echoes of a guest whose worker was killed and restarted: {heard:?}");
    assert_eq!(heard.lost, 0, "{heard:?}");
    println!("a transfer with it: {:?}", transfer.stop()?);
    // What was taken over obeys.
    worker.assign(&[Assignment::of(&guest, "web")])?;
    worker.wait_until_gone("db")?;
    assert!(worker.terminate()?.status.success());
    assert_eq!(HostState::observe()?, before);
    Ok(())
}

#[test]
#[ignore = "full: boots three times"]
fn a_lost_host_process_is_felt_by_its_own_guest_alone() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&guest, "a"), Assignment::of(&guest, "b")])?;
    let (a, b) = (worker.wait_until_answering("a")?, worker.wait_until_answering("b")?);
    let echoes = Echoes::of(b.address()?);
    let process = host_process_of("a")?.context("a has a host process")?;
    kill_process(Pid::from_raw(process).context("a process id")?, Signal::KILL)?;
    let failed = until("its end is told", SHORT_DEADLINE, || {
        let vm = worker.vm("a")?;
        vm.reason.clone().with_context(|| vm.state())
    })?;
    assert!(failed.message.contains("SIGKILL"), "{failed:?}");
    let again = until("it is started again", BOOT_DEADLINE, || {
        let vm = worker.vm("a")?;
        ensure!(vm.phase == "running" && vm.restarts == 1, "{}", vm.state());
        Ok(vm)
    })?;
    assert_eq!(again.address, a.address);
    worker.wait_until_answering("a")?;
    let heard = echoes.stop()?;
    assert_eq!(heard.lost, 0, "the other guest noticed: {heard:?}");
    assert_eq!(worker.vm("b")?.started_at, b.started_at);
    assert!(fs::read_dir(worker.vm_directory("a").join("console"))?.count() >= 2, "a console for each boot");
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: kills the worker three times, and boots four times"]
fn what_is_wanted_comes_about_whenever_the_worker_is_killed() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let before = HostState::observe()?;
    let place = Arc::new(Place::new("removal_grace_seconds = 0\n")?);
    let db = || Assignment::of(&guest, "db").with_cmdline("records").with_disk("data", MEBIBYTE);
    let web = || Assignment::of(&guest, "web");

    // While its first guests are started.
    let worker = Worker::start_leaving(&environment, &place)?;
    worker.assign(&[db(), web()])?;
    until("a guest is there", BOOT_DEADLINE, || {
        let phases: Vec<String> = worker.vms()?.into_iter().map(|vm| vm.phase).collect();
        ensure!(phases.iter().any(|phase| phase == "running"), "they are {phases:?}");
        Ok(())
    })?;
    worker.kill()?;
    let worker = Worker::start_leaving(&environment, &place)?;
    worker.wait_until_answering("web")?;
    let address = worker.wait_until_answering("db")?.address()?;
    let written =
        until("the first records", BOOT_DEADLINE, || Ok(records_on(address, "data")?.acknowledged))?;

    // While a guest shuts down to be started again by another definition, or right after that: it may be quick.
    let first_run = worker.vm("db")?.started_at;
    worker.assign(&[db().with_memory(192 * MEBIBYTE), web()])?;
    until("db is on its way to its new definition", BOOT_DEADLINE, || {
        let vm = worker.vm("db")?;
        ensure!(vm.phase != "running" || vm.started_at != first_run, "{}", vm.state());
        Ok(())
    })?;
    worker.kill()?;
    let worker = Worker::start_leaving(&environment, &place)?;
    let db_again = until("db runs by its new definition", BOOT_DEADLINE, || {
        let vm = worker.vm("db")?;
        let memory = vm.metrics.as_ref().map(|metrics| metrics.memory_size_bytes);
        ensure!(vm.phase == "running" && memory == Some(192 * MEBIBYTE), "{}", vm.state());
        Ok(vm)
    })?;
    let found = until("db finds its records", BOOT_DEADLINE, || records_on(db_again.address()?, "data"))?;
    ensure!(found.intact >= written, "{found:?}, {written} were acknowledged");

    // Together with the process of a guest.
    let process = host_process_of("web")?.context("web has a host process")?;
    worker.kill()?;
    kill_process(Pid::from_raw(process).context("a process id")?, Signal::KILL)?;
    let worker = Worker::start_at(&environment, &place)?;
    worker.wait_until_answering("web")?;
    assert_eq!(worker.vm("db")?.started_at, db_again.started_at, "the other guest goes on");

    worker.assign(&[])?;
    worker.wait_until_gone("db")?;
    worker.wait_until_gone("web")?;
    assert!(worker.terminate()?.status.success());
    for directory in ["vms", "volumes"] {
        assert_eq!(fs::read_dir(place.state().join(directory))?.count(), 0, "{directory} is empty");
    }
    assert_eq!(HostState::observe()?, before);
    Ok(())
}

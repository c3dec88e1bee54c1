//! A new image whose guest is not well: the one before comes back, with its data as it was.

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Image, Never, ObservedVm, SHORT_DEADLINE, Worker, http_get, records_on, until,
};
use serde_json::json;

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;
const DB: &str = "db";
const DATA: &str = "data";
/// How long a definition on trial has to become ready. It is never; its guest boots and writes meanwhile.
const TRIAL_SECONDS: u64 = 60;

#[test]
#[ignore = "full: boots three times, and waits for the end of a trial"]
fn an_image_that_fails_its_probe_is_taken_back_with_its_data() -> Result<()> {
    let environment = environment();
    let (first, next) = (environment.image("guest")?, environment.image("next-edition")?);
    let worker = Worker::start(&environment)?;
    worker.assign(&[database(&first)])?;
    let ready = until("the first image is ready", BOOT_DEADLINE, || {
        let vm = worker.vm(DB)?;
        ensure!(vm.phase != "failed", Never(vm.state()));
        vm.ready()?;
        Ok(vm)
    })?;
    let address = ready.address()?;
    let written = until("its first records", BOOT_DEADLINE, || records_on(address, DATA))?;

    worker.assign(&[database(&next)])?;
    let trial = run_after(&worker, &ready)?;
    assert_eq!(trial.address, ready.address);
    // It is given the data as it is, and writes more to its copy.
    let on_trial = until("records of the next image", BOOT_DEADLINE, || records_on(address, DATA))?;
    ensure!(on_trial.intact >= written.acknowledged, "{on_trial:?}, {written:?} before");
    let page = http_get(address, "/cgi-bin/edition")?;
    assert_eq!(String::from_utf8_lossy(&page), "edition next\n");
    ensure!(worker.vm(DB)?.ready().is_err(), "what it serves is not what is wanted");

    let back = run_after(&worker, &trial)?;
    let refusal = until("it is said why", SHORT_DEADLINE, || {
        worker.vm(DB)?.wanted.and_then(|wanted| wanted.refusal).context("it is not")
    })?;
    println!("refused: {}", refusal.message);
    ensure!(refusal.message.contains("ready"), "{refusal:?}");
    let found = until("records of the first image", BOOT_DEADLINE, || records_on(address, DATA))?;
    assert_eq!(
        found.intact, on_trial.intact,
        "what the next image wrote to {DATA} is gone, and nothing else"
    );
    let page = http_get(address, "/cgi-bin/edition")?;
    assert_eq!(String::from_utf8_lossy(&page), "edition first\n");
    let root = records_on(address, "root")?;
    ensure!(root.intact > 0, "its root file system has its records: {root:?}");
    until("it is ready again", BOOT_DEADLINE, || worker.vm(DB)?.ready().map(drop))?;
    assert!(worker.list()?.contains("a change is not in force"), "{}", worker.list()?);
    assert_eq!(
        worker.vm(DB)?.started_at,
        back.started_at,
        "{} is not tried again",
        next.store_path.display()
    );
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// A VM of `image` whose guest writes records, and is ready where it serves the edition `first`.
fn database(image: &Image) -> Assignment {
    let probe = json!({
        "id": "edition", "role": "readiness", "kind": "http", "port": 80, "path": "/cgi-bin/edition",
        "body_contains": "edition first", "period_s": 2, "timeout_s": 10,
    });
    Assignment::of(image, DB)
        .with_cmdline("records")
        .with_disk(DATA, MEBIBYTE)
        .with_procurator("health", json!({ "probes": [probe] }))
        .with_procurator("rollout", json!({ "ready_deadline_s": TRIAL_SECONDS, "on_failure": "roll_back" }))
}

/// The VM in another run than `before`.
fn run_after(worker: &Worker, before: &ObservedVm) -> Result<ObservedVm> {
    until("the next run", BOOT_DEADLINE, || {
        let vm = worker.vm(DB)?;
        ensure!(vm.phase != "failed", Never(vm.state()));
        ensure!(vm.phase == "running" && vm.started_at != before.started_at, "{}", vm.state());
        Ok(vm)
    })
}

//! Many guests that burn all the processor time they get: whoever operates the host is answered nevertheless.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, BOOT_DEADLINE, Image, Place, ProcessState, Worker, until};
use serde_json::json;
use tiny_guest::TinyGuest;

use crate::environment;

const GUESTS: usize = 32;
/// What the worker reckons with for itself, and for each VM: see `docs/configuration.md`.
const DESCRIPTORS: (usize, usize) = (256, 16);
const SETTINGS: &str = "hash_verification = 'never'\nspare_host_processes = 0\nremoval_grace_seconds = 0\n";

/// An image of a guest that does nothing but spin, at `place`.
fn spinning(place: &Place) -> Result<Image> {
    let store_path: PathBuf = place.images().join("spin");
    fs::create_dir(&store_path).context("cannot make an image")?;
    let config = json!({ "memory": { "size": 16 << 20 }, "payload": {}, "console": { "mode": "Off" } });
    fs::write(store_path.join("vmlinux"), TinyGuest::spin().elf()).context("cannot write a kernel")?;
    fs::write(store_path.join("vm-config.json"), config.to_string()).context("cannot write a description")?;
    let hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
    Ok(Image { store_path, hash })
}

#[test]
#[ignore = "full: many guests on one processor"]
fn an_operator_is_answered_while_many_guests_burn() -> Result<()> {
    let environment = environment();
    let place = Arc::new(Place::new(SETTINGS)?);
    let image = spinning(&place)?;
    let worker = Worker::start_at(&environment, &place)?;
    let crowd: Vec<Assignment> =
        (1..=GUESTS).map(|number| Assignment::of(&image, &format!("spin-{number}"))).collect();
    worker.assign(&crowd)?;
    until("all run", BOOT_DEADLINE, || {
        let running = worker.vms()?.iter().filter(|vm| vm.phase == "running").count();
        ensure!(running == GUESTS, "{running} of {GUESTS} run");
        Ok(())
    })?;
    let mut answers = Vec::new();
    for _ in 0..10 {
        let asked = Instant::now();
        worker.status()?;
        answers.push(asked.elapsed());
    }
    answers.sort_unstable();
    println!(
        "`status` beside {GUESTS} guests that burn: median {:.1?}, at most {:.1?}",
        answers[5], answers[9]
    );
    let open = ProcessState::observe(worker.pid())?.descriptors;
    let (own, each) = DESCRIPTORS;
    println!("the worker has {open} files open");
    assert!(open <= own + each * GUESTS, "{open} files are open");
    worker.assign(&[])?;
    for number in 1..=GUESTS {
        worker.wait_until_gone(&format!("spin-{number}"))?;
    }
    assert!(worker.terminate()?.status.success());
    Ok(())
}

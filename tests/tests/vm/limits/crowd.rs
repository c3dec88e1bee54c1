//! Many tiny guests: whoever operates the host is answered while they burn, and what their groups cost is measured.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, BOOT_DEADLINE, ControlGroup, Image, Place, ProcessState, Worker, until};
use serde_json::json;
use tiny_guest::TinyGuest;

use crate::environment;

const HIERARCHY: &str = "/sys/fs/cgroup";
const GUESTS: usize = 32;
/// What the worker reckons with for itself, and for each VM: see `docs/configuration.md`.
const DESCRIPTORS: (usize, usize) = (256, 16);
const SETTINGS: &str = "hash_verification = 'never'\nspare_host_processes = 0\nremoval_grace_seconds = 0\nstop_timeout_seconds = 1\n";

/// An image of `guest` at `place`.
fn image_of(place: &Place, guest: &TinyGuest) -> Result<Image> {
    let store_path: PathBuf = place.images().join("tiny");
    fs::create_dir(&store_path).context("cannot make an image")?;
    let config = json!({ "memory": { "size": 16 << 20 }, "payload": {}, "console": { "mode": "Off" } });
    fs::write(store_path.join("vmlinux"), guest.elf()).context("cannot write a kernel")?;
    fs::write(store_path.join("vm-config.json"), config.to_string()).context("cannot write a description")?;
    let hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
    Ok(Image { store_path, hash })
}

/// Has `count` VMs of `image` run. None takes processor time from those that are made after it.
fn run(worker: &Worker, image: &Image, count: usize) -> Result<()> {
    let crowd: Vec<Assignment> =
        (1..=count).map(|number| Assignment::of(image, &format!("tiny-{number}"))).collect();
    let paused: Vec<Assignment> = crowd.iter().cloned().map(Assignment::paused).collect();
    worker.assign(&paused)?;
    all_are(worker, count, "paused")?;
    worker.assign(&crowd)?;
    all_are(worker, count, "running")
}

fn all_are(worker: &Worker, count: usize, phase: &str) -> Result<()> {
    until(&format!("all are {phase}"), BOOT_DEADLINE, || {
        let there = worker.vms()?.iter().filter(|vm| vm.phase == phase).count();
        ensure!(there == count, "{there} of {count} are");
        Ok(())
    })
}

fn remove_all(worker: &Worker) -> Result<()> {
    worker.assign(&[])?;
    until("all are gone", BOOT_DEADLINE, || {
        let left = worker.vms()?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
}

#[test]
#[ignore = "full: many guests on one processor"]
fn an_operator_is_answered_while_many_guests_burn() -> Result<()> {
    let environment = environment();
    let place = Arc::new(Place::new(SETTINGS)?);
    let image = image_of(&place, &TinyGuest::spin())?;
    let worker = Worker::start_at(&environment, &place)?;
    run(&worker, &image, GUESTS)?;
    tell_times("the worker's socket", || worker.get("/v1/status").map(drop))?;
    // A program is started for it, beside the guests.
    tell_times("`procurator-worker status`", || worker.status().map(drop))?;
    let open = ProcessState::observe(worker.pid())?.descriptors;
    let (own, each) = DESCRIPTORS;
    println!("the worker has {open} files open");
    assert!(open <= own + each * GUESTS, "{open} files are open");
    remove_all(&worker)?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// Says how long whoever `asks` waits for an answer.
fn tell_times(who: &str, asks: impl Fn() -> Result<()>) -> Result<()> {
    let mut answers = Vec::new();
    for _ in 0..10 {
        let asked = Instant::now();
        asks()?;
        answers.push(asked.elapsed());
    }
    answers.sort_unstable();
    println!("{who} beside {GUESTS} guests that burn: median {:.1?}, at most {:.1?}", answers[5], answers[9]);
    Ok(())
}

/// The hierarchy out of everybody's sight, until this is dropped: processes that are started meanwhile have no groups.
struct Covered;

impl Covered {
    fn cover() -> Result<Self> {
        busybox(&["mount", "-t", "tmpfs", "none", HIERARCHY])?;
        Ok(Self)
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        busybox(&["umount", HIERARCHY]).expect("what was mounted can be unmounted");
    }
}

fn busybox(words: &[&str]) -> Result<()> {
    let status = Command::new("busybox").args(words).status().context("cannot start busybox")?;
    ensure!(status.success(), "busybox {} ended with {status}", words.join(" "));
    Ok(())
}

#[test]
#[ignore = "full: creates a hundred VMs"]
fn what_a_group_adds_to_a_creation_is_measured() -> Result<()> {
    const ROUNDS: usize = 4;
    const TOGETHER: usize = 12;
    let environment = environment();
    let place = Arc::new(Place::new(SETTINGS)?);
    let image = image_of(&place, &TinyGuest::idle())?;
    let worker = Worker::start_at(&environment, &place)?;
    let timed = |grouped: bool| {
        let covered = if grouped { None } else { Some(Covered::cover()?) };
        let begun = Instant::now();
        run(&worker, &image, TOGETHER)?;
        let took = begun.elapsed();
        drop(covered);
        // A measurement of two things that are the same would tell nothing.
        let groups = ControlGroup::of_all_vms()?.len();
        ensure!(groups == if grouped { TOGETHER } else { 0 }, "{groups} groups; with groups: {grouped}");
        remove_all(&worker)?;
        // A hierarchy that is covered meanwhile keeps them.
        until("no group is left", BOOT_DEADLINE, || {
            let left = ControlGroup::of_all_vms()?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        Ok(took)
    };
    let (mut with, mut without) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        without += timed(false)?;
        with += timed(true)?;
    }
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!(
        "{TOGETHER} VMs created {ROUNDS} times: {without:.1?} without groups, {with:.1?} with them, ratio {ratio:.3}"
    );
    assert!(worker.terminate()?.status.success());
    Ok(())
}

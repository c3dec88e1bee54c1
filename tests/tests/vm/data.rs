//! A guest that writes like a database, through edits, mistakes and faults of its host: what it has acknowledged is there
//! afterwards, each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Filler, Image, Never, Place, Reason, SHORT_DEADLINE, Worker, records, until,
};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;
/// The VM.
const DB: &str = "db";
/// Its disks: the one with its root file system, a copy of the image's, and one of its own that outlives images.
const ROOT: &str = "root";
const DATA: &str = "data";
const WRONG_HASH: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn records_outlive_mistakes_a_full_disk_and_a_lost_log() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let place = Place::new("")?.with_small_state(48 * MEBIBYTE)?.with_small_log(4 * MEBIBYTE)?;
    let place = Arc::new(place);
    let worker = Worker::start_at(&environment, &place)?;
    let db = database(&guest);
    worker.assign(std::slice::from_ref(&db))?;
    let mut client = Client::default();
    client.writes_on(&worker)?;

    definitions_that_cannot_be_used_change_nothing(&worker, &db)?;
    client.writes_on(&worker)?;
    files_that_cannot_be_meant_change_nothing(&worker, &db)?;
    client.writes_on(&worker)?;
    a_full_disk_holds_the_guest_until_there_is_space(&worker, &place, &mut client)?;
    assert_eq!(worker.vm(DB)?.ends.len(), 0, "all of this was its first run");

    // Another shape, and nobody can be told.
    let filler = place.fill_log()?;
    worker.assign(&[db.with_memory(160 * MEBIBYTE)])?;
    client.finds_all(&worker, &[ROOT, DATA])?;
    assert_eq!(worker.vm(DB)?.metrics()?.memory_size_bytes, 160 * MEBIBYTE);
    let lost = worker.status()?["log_lines_dropped"].as_u64();
    assert!(lost > Some(0), "{lost:?} lines of the log were lost");
    drop(filler);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots seven times"]
fn records_outlive_images_removals_and_workers() -> Result<()> {
    let environment = environment();
    let (guest, next) = (environment.image("guest")?, environment.image("next-edition")?);
    let place = Arc::new(Place::new("")?);
    let worker = Worker::start_at(&environment, &place)?;
    // So that no set is empty. It never runs.
    let other = Assignment::of(&guest, "other").stopped();
    let with = |db: Assignment| [other.clone(), db];
    worker.assign(&with(database(&guest)))?;
    let mut client = Client::default();
    client.writes_on(&worker)?;

    // An image whose disk has another content: a disk of its own, and the one with the old content when it is back.
    let before = client.acknowledged.remove(ROOT).context("its root file system has records")?;
    worker.assign(&with(database(&next)))?;
    client.finds_all(&worker, &[DATA])?;
    let address = worker.vm(DB)?.address()?;
    assert_eq!(records(address)?[ROOT].intact, 0, "the other image's disk is new");
    client.writes_on(&worker)?;
    client.acknowledged.insert(ROOT.to_owned(), before);
    worker.assign(&with(database(&guest)))?;
    client.finds_all(&worker, &[ROOT, DATA])?;

    worker.kill()?;
    let worker = Worker::start_at(&environment, &place)?;
    client.writes_on(&worker)?;
    worker.terminate()?;
    let worker = Worker::start_at(&environment, &place)?;
    client.finds_all(&worker, &[ROOT, DATA])?;

    // Left out and put back while it is on its way out, and again when it is gone.
    worker.assign(std::slice::from_ref(&other))?;
    until("it is on its way out", SHORT_DEADLINE, || {
        let is_up = worker.vms()?.iter().any(|vm| vm.id == DB && vm.phase == "running");
        ensure!(!is_up, "it still runs");
        Ok(())
    })?;
    worker.assign(&with(database(&guest)))?;
    client.finds_all(&worker, &[ROOT, DATA])?;
    worker.assign(std::slice::from_ref(&other))?;
    worker.wait_until_gone(DB)?;
    assert!(worker.list_removed()?.contains(DB), "{}", worker.list_removed()?);
    worker.assign(&with(database(&guest)))?;
    client.finds_all(&worker, &[ROOT, DATA])?;
    assert!(!worker.list_removed()?.contains(DB), "{}", worker.list_removed()?);
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// A VM of `image` whose guest writes records to both of its disks.
fn database(image: &Image) -> Assignment {
    Assignment::of(image, DB).with_cmdline("records").with_disk(DATA, MEBIBYTE)
}

/// Who relies on what the guest acknowledges.
#[derive(Debug, Default)]
struct Client {
    /// The number of the last record of each disk that the guest said was safe.
    acknowledged: BTreeMap<String, u64>,
    /// When the run of the guest began that said so.
    run: Option<u64>,
}

impl Client {
    /// Waits until the guest has acknowledged more than before, on each of its disks.
    fn writes_on(&mut self, worker: &Worker) -> Result<()> {
        let (run, now) = until("records are written to each disk", BOOT_DEADLINE, || {
            let vm = worker.vm(DB)?;
            ensure!(vm.phase != "failed", Never(vm.state()));
            let found = records(vm.address()?)?;
            for disk in [ROOT, DATA] {
                let found = found.get(disk).with_context(|| format!("{disk} has none"))?;
                let known = self.known(disk);
                ensure!(found.acknowledged > known, "{found:?} on {disk}, {known} are known");
            }
            Ok((vm.started_at, found))
        })?;
        self.run = run;
        self.acknowledged.extend(now.into_iter().map(|(disk, records)| (disk, records.acknowledged)));
        Ok(())
    }

    /// Waits for the guest's next run, which has to find everything that was acknowledged on `disks`, and until it writes
    /// on.
    fn finds_all(&mut self, worker: &Worker, disks: &[&str]) -> Result<()> {
        until("the next run finds what was acknowledged", BOOT_DEADLINE, || {
            let vm = worker.vm(DB)?;
            ensure!(vm.phase != "failed", Never(vm.state()));
            // A guest on its way out may take a question along, and the answer is waited for.
            ensure!(vm.phase == "running" && vm.started_at != self.run, "the run before: {}", vm.state());
            let found = records(vm.address()?)?;
            for disk in disks {
                let found = found.get(*disk).with_context(|| format!("{disk} has none yet"))?;
                let known = self.known(disk);
                ensure!(
                    found.intact >= known,
                    Never(format!("{found:?} on {disk}, {known} were acknowledged"))
                );
            }
            Ok(())
        })?;
        self.writes_on(worker)
    }

    fn known(&self, disk: &str) -> u64 {
        self.acknowledged.get(disk).copied().unwrap_or_default()
    }
}

fn definitions_that_cannot_be_used_change_nothing(worker: &Worker, db: &Assignment) -> Result<()> {
    let wrong = db.clone().with_hash(WRONG_HASH);
    let refusal = refusal_of(worker, &wrong, WRONG_HASH)?;
    assert_eq!(refusal.kind, "hash_mismatch", "{}", refusal.message);
    assert!(worker.list()?.contains("a change is not in force"), "{}", worker.list()?);
    // What no machine can have is refused where it stands, and the entry before stays.
    worker.assign(&[db.clone().with_vcpus(200)])?;
    until("its entry is refused", SHORT_DEADLINE, || {
        let status = worker.status()?;
        let refused = status["refused_entries"].to_string();
        ensure!(refused.contains("vcpus"), "{status}");
        Ok(())
    })?;
    assert_eq!(worker.vm(DB)?.phase, "running");
    worker.assign(std::slice::from_ref(db))?;
    until("nothing is wanted any more", SHORT_DEADLINE, || {
        ensure!(worker.vm(DB)?.wanted.is_none(), "not yet");
        Ok(())
    })
}

/// Why the VM does not become what is assigned. It runs meanwhile.
fn refusal_of(worker: &Worker, assigned: &Assignment, word: &str) -> Result<Reason> {
    worker.assign(std::slice::from_ref(assigned))?;
    until("it is refused", SHORT_DEADLINE, || {
        let vm = worker.vm(DB)?;
        ensure!(vm.phase == "running", Never(vm.state()));
        let refusal = vm.wanted.and_then(|wanted| wanted.refusal).context("it is not refused yet")?;
        ensure!(refusal.message.contains(word), "{}", refusal.message);
        Ok(refusal)
    })
}

fn files_that_cannot_be_meant_change_nothing(worker: &Worker, db: &Assignment) -> Result<()> {
    for (text, state, words) in [(r#"{"vms": []}"#, "held", "allow_removals"), ("", "refused", "empty")] {
        worker.write_assignments(text)?;
        until(&format!("assignments are {state}"), SHORT_DEADLINE, || {
            let status = worker.status()?;
            ensure!(status["assignments"]["state"] == state, "{status}");
            Ok(())
        })?;
        let listed = worker.list()?;
        assert!(listed.contains(words) && listed.contains(state), "{listed}");
        assert_eq!(worker.vm(DB)?.phase, "running", "{text:?} has ended it");
    }
    worker.assign(std::slice::from_ref(db))?;
    until("assignments are in force", SHORT_DEADLINE, || {
        let status = worker.status()?;
        ensure!(status["assignments"]["state"] == "in_force", "{status}");
        Ok(())
    })
}

fn a_full_disk_holds_the_guest_until_there_is_space(
    worker: &Worker,
    place: &Place,
    client: &mut Client,
) -> Result<()> {
    let filler = Filler::fill(&place.state())?;
    let trouble = until("it waits for space", SHORT_DEADLINE, || {
        let vm = worker.vm(DB)?;
        ensure!(vm.phase == "paused", "{}", vm.state());
        vm.disk_trouble.context("it does not say why")
    })?;
    assert_eq!(trouble.disk, DATA);
    assert!(trouble.problem.contains("No space left"), "{}", trouble.problem);
    let listed = worker.list()?;
    assert!(listed.contains("disk data: No space left"), "{listed}");
    drop(filler);
    worker.wait_for_phase(DB, "running")?;
    client.writes_on(worker)
}

//! Jobs on real files, and on a store that ceases to answer.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix_artifacts::{FileIdentities, StoreRoots, hash_store_path};
use tempfile::TempDir;
use test_host::DeadStore;
use vm_model::{FailureKind, NarHash};

use super::*;
use crate::supervisor::GivenUp;

const DEADLINE: Duration = Duration::from_secs(20);

/// A store with the path `image`.
struct Bench {
    folder: TempDir,
    roots: Arc<StoreRoots>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = folder.path().join("store");
        fs::create_dir_all(store.join("image")).expect("created");
        fs::write(store.join("image/disk.img"), vec![1; 8 << 20]).expect("written");
        let roots = StoreRoots::open(&[store]).expect("opened");
        Self { folder, roots: roots.into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store/image")
    }

    /// What the path is now.
    fn look(&self) -> (NarHash, FileIdentities) {
        let verified =
            hash_store_path(&self.roots, &self.path(), &mut |_| ControlFlow::Continue(())).expect("hashed");
        (verified.hash, verified.files)
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_for_one_path_are_answered_by_one_hashing() {
    test_host::isolated(|| {
        let (bench, place) = (Bench::new(), tempfile::tempdir().expect("a directory"));
        let store = DeadStore::mount(&bench.folder.path().join("store"), place.path());
        let roots = StoreRoots::open(&[place.path().to_owned()]).expect("opened");
        let path = place.path().join("image");
        let seen = hash_store_path(&roots, &path, &mut |_| ControlFlow::Continue(())).expect("it answers");
        let verifications = Verifications::new(Arc::new(roots));
        store.hold_reads();
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let request =
                            Request { path: &path, expected: seen.hash, met: &seen.files, feeds: Vec::new() };
                        verifications.verify(request, &GivenUp::default(), &|_| {})
                    })
                })
                .collect();
            until("all wait for the same", || verifications.waiting() == 8);
            assert_eq!(verifications.running(), 1);
            store.answer();
            for asking in asking {
                assert!(asking.join().expect("no panic").expect("right").cover(&seen.files));
            }
        });
        assert_eq!(verifications.running(), 0);
    });
}

#[test]
fn whoever_has_other_files_open_is_not_answered_by_anothers_verdict() {
    let bench = Bench::new();
    let (expected, met) = bench.look();
    // Opened before: another file of the same content.
    fs::rename(bench.path().join("disk.img"), bench.folder.path().join("old")).expect("renamed");
    fs::copy(bench.folder.path().join("old"), bench.path().join("disk.img")).expect("copied");
    let verifications = Verifications::new(bench.roots.clone());
    let path = bench.path();
    let request = Request { path: &path, expected, met: &met, feeds: Vec::new() };
    let error = verifications.verify(request, &GivenUp::default(), &|_| {}).expect_err("other files");
    assert!(error.kind == FailureKind::Host && error.message.contains("after it was opened"), "{error}");
}

#[test]
fn a_wrong_path_is_told_to_all_and_a_lost_wait_is_given_up() {
    let bench = Bench::new();
    let (_, met) = bench.look();
    let wrong = NarHash::new([7; 32]);
    let verifications = Verifications::new(bench.roots.clone());
    let path = bench.path();
    let request = Request { path: &path, expected: wrong, met: &met, feeds: Vec::new() };
    let error = verifications.verify(request, &GivenUp::default(), &|_| {}).expect_err("another hash");
    assert_eq!(error.kind, FailureKind::HashMismatch);
    let given_up = GivenUp::default();
    given_up.set();
    let request = Request { path: &path, expected: wrong, met: &met, feeds: Vec::new() };
    let error = verifications.verify(request, &given_up, &|_| {}).expect_err("nobody waits");
    assert!(error.message.contains("given up"), "{error}");
}

#[test]
fn a_store_that_does_not_answer_can_be_left_and_holds_up_no_other() {
    test_host::isolated(|| {
        let (bench, living) = (Bench::new(), Bench::new());
        let place = tempfile::tempdir().expect("a directory");
        let store = DeadStore::mount(&bench.folder.path().join("store"), place.path());
        let roots = [place.path().to_owned(), living.folder.path().join("store")];
        let roots = Arc::new(StoreRoots::open(&roots).expect("opened"));
        let path = place.path().join("image");
        let seen = hash_store_path(&roots, &path, &mut |_| ControlFlow::Continue(()));
        let seen = seen.expect("it answers as yet");
        let (expected, met) = living.look();
        let verifications = Verifications::new(Arc::clone(&roots));
        store.die();
        std::thread::scope(|scope| {
            // More than there are slots for its file system.
            let given_up = GivenUp::default();
            let stuck: Vec<_> = (0..70_u8)
                .map(|number| {
                    let (path, given_up, verifications, met) =
                        (path.clone(), given_up.clone(), &verifications, &seen.files);
                    scope.spawn(move || {
                        // Each of its own hash, so that none joins another.
                        let expected = NarHash::new([number; 32]);
                        let request = Request { path: &path, expected, met, feeds: Vec::new() };
                        verifications.verify(request, &given_up, &|_| {})
                    })
                })
                .collect();
            until("threads are stuck", || verifications.running() == 70);
            let path = living.path();
            let request = Request { path: &path, expected, met: &met, feeds: Vec::new() };
            verifications.verify(request, &GivenUp::default(), &|_| {}).expect("nothing is wrong with it");
            given_up.set();
            for stuck in stuck {
                stuck.join().expect("no panic").expect_err("given up");
            }
        });
        drop(store);
    });
}

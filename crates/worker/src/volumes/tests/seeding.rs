//! Contents that are made of their image's pieces while these are hashed.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::SyncSender;

use nix_artifacts::{Feed, LoadedPath, Piece, StoreRoots, hash_store_path, verify_loaded};

use super::super::Seeded;
use super::*;

const SIZE: u64 = 64 << 20;

impl Bench {
    /// The store path `image` with a sparse image in it, and what it is.
    fn store_path(&self) -> (StoreRoots, PathBuf, File) {
        let store = self.folder.path().join("store");
        let path = store.join("image");
        fs::create_dir_all(&path).expect("created");
        let image = File::create(path.join("disk.img")).expect("created");
        image.set_len(SIZE).expect("sized");
        image.write_all_at(&vec![7; 3 << 20], 1 << 20).expect("written");
        image.write_all_at(&vec![0; 8 << 20], 16 << 20).expect("zeros that are written");
        image.write_all_at(b"end", SIZE - 3).expect("written");
        let roots = StoreRoots::open(&[store]).expect("opened");
        (roots, path.clone(), File::open(path.join("disk.img")).expect("opened"))
    }
}

/// Hashes `path` and hands its image on.
fn hash_and_feed(roots: &StoreRoots, path: &Path, pieces: SyncSender<Piece>) {
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    let seen = hash_store_path(roots, path, &mut go_on).expect("hashed");
    let feed = Feed { path: "disk.img".into(), pieces, is_urgent: Box::new(|| false) };
    let loaded = LoadedPath { store_path: path, met: &seen.files, feeds: vec![feed] };
    verify_loaded(roots, loaded, &seen.hash, &mut go_on).expect("verified");
}

fn stage_seeded(bench: &Bench, image: &File, seeded: Option<Seeded>) -> Staged {
    bench.store.stage(&vm(), seeded_from(image), seeded, &GivenUp::default()).expect("staged")
}

fn seeded_from(image: &File) -> StageRequest<'_> {
    seeded(image)
}

#[test]
fn one_read_makes_the_same_content_and_digest_as_reading_again() {
    let bench = Bench::new();
    let (roots, path, image) = bench.store_path();
    let (seeding, pieces) = bench.store.begin_seeding(&vm(), &seeded_from(&image)).expect("wanted");
    hash_and_feed(&roots, &path, pieces);
    let made = seeding.finish().expect("the whole image");
    assert_eq!(made.disk(), "data");
    let staged = stage_seeded(&bench, &image, Some(made));
    let committed = bench.store.commit(&vm(), staged).expect("switched over");
    let (copy, original) = (fs::read(&committed.path).expect("read"), fs::read(path.join("disk.img")));
    assert!(copy == original.expect("read"), "the same content");
    let blocks = |path: &Path| path.metadata().expect("stat").blocks();
    assert!(blocks(&committed.path) < blocks(&path.join("disk.img")), "written zeros become holes");

    // Another store, which reads the image by itself, comes to the same digest.
    let other = Bench::new();
    let staged = stage_seeded(&other, &image, None);
    let committed_there = other.store.commit(&vm(), staged).expect("switched over");
    let digest = |bench: &Bench| {
        let text = fs::read_to_string(bench.file("volume.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        record["contents"]["0"]["image"]["digest"].clone()
    };
    assert!(digest(&bench).is_string());
    assert_eq!(digest(&bench), digest(&other));
    drop(committed_there);
}

#[test]
fn what_was_not_handed_on_whole_comes_to_nothing_and_leaves_no_file() {
    let bench = Bench::new();
    let (_, _, image) = bench.store_path();
    let (seeding, pieces) = bench.store.begin_seeding(&vm(), &seeded_from(&image)).expect("wanted");
    assert!(bench.file("0.staged").exists());
    pieces.send(Piece::Hole { offset: 0, length: 512 }).expect("taken");
    drop(pieces);
    assert!(seeding.finish().is_none());
    assert!(!bench.file("0.staged").exists());
    // The start copies the image instead.
    let staged = stage_seeded(&bench, &image, None);
    bench.store.commit(&vm(), staged).expect("switched over");
    assert!(bench.file("0.img").exists());
}

#[test]
fn a_volume_that_is_there_wants_nothing_and_one_of_another_image_only_its_digest() {
    let bench = Bench::new();
    let (roots, path, image) = bench.store_path();
    let staged = stage_seeded(&bench, &image, None);
    bench.store.commit(&vm(), staged).expect("switched over");
    assert!(bench.store.begin_seeding(&vm(), &seeded_from(&image)).is_none(), "it goes on");

    image.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
    let (seeding, pieces) = bench.store.begin_seeding(&vm(), &seeded_from(&image)).expect("to compare");
    assert!(!bench.file("1.staged").exists(), "nothing is copied that may not be needed");
    hash_and_feed(&roots, &path, pieces);
    let staged = stage_seeded(&bench, &image, seeding.finish());
    let committed = bench.store.commit(&vm(), staged).expect("switched over");
    assert_eq!(committed.path, bench.file("0.img"), "the content is the same");
}

#[test]
fn a_copy_that_does_not_fit_is_refused_before_it_fills_the_disk() {
    test_host::isolated(|| {
        let bench = Bench::with_state(|folder| {
            let state = folder.join("state");
            fs::create_dir_all(&state).expect("created");
            let options = std::ffi::CString::new("size=2m").expect("no zero in it");
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", &state, "tmpfs", flags, options.as_c_str()).expect("mounted");
            state
        });
        let (_, _, image) = bench.store_path();
        let request = seeded_from(&image);
        let seeding = bench.store.begin_seeding(&vm(), &request);
        let made = seeding.map(|(seeding, pieces)| {
            drop(pieces);
            seeding.finish()
        });
        assert!(!matches!(made, Some(Some(_))));
        let error = bench.store.stage(&vm(), request, None, &GivenUp::default()).expect_err("no space");
        assert!(error.is_for_want_of_space(), "{error}");
        let text = vm_model::error_chain(&error);
        assert!(text.contains("the copy needs"), "{text}");
    });
}

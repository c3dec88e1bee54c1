//! Attacks between the opening of a machine's files, the hashing and the start: what was verified is what is open.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use vm_model::NarHash;

use super::{Store, chain, opened};
use crate::*;

fn go_on(_hashed: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Store {
    fn hash(&self) -> NarHash {
        hash_store_path(&self.roots, &self.path("image"), &mut go_on).expect("hashed").hash
    }

    /// Holds what `artifact` has open against the hash that was promised.
    fn verify(&self, artifact: &Artifact, promised: &NarHash) -> Result<Verified, String> {
        self.verify_meanwhile(artifact, promised, |_| {})
    }

    /// The same, while `meanwhile` happens after each piece.
    fn verify_meanwhile(
        &self,
        artifact: &Artifact,
        promised: &NarHash,
        mut meanwhile: impl FnMut(u64),
    ) -> Result<Verified, String> {
        let store_path = self.path("image");
        let met = artifact.trail.in_path(&store_path).expect("its own path");
        let loaded = LoadedPath { store_path: &store_path, met, feeds: Vec::new() };
        let mut progress = |hashed| {
            meanwhile(hashed);
            ControlFlow::Continue(())
        };
        verify_loaded(&self.roots, loaded, promised, &mut progress)
            .map_err(|error| self.shorten(&chain(&error)))
    }
}

/// An edit that keeps the size and puts the modification time back.
fn edit_unseen(path: &Path) {
    let modified = fs::metadata(path).expect("stat").modified().expect("a time");
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.write_all(b"X").expect("written");
    file.set_modified(modified).expect("set");
}

#[test]
fn what_is_left_alone_is_verified_and_unchanged() {
    let store = Store::bootable("{}");
    let promised = store.hash();
    let artifact = store.load().expect("loads");
    let verified = store.verify(&artifact, &promised).expect("verified");
    let met = artifact.trail.in_path(&store.path("image")).expect("its own path");
    assert!(verified.files.cover(met));
    opened(&artifact.machine.boot.kernel).check_unchanged().expect("unchanged");
    // Reading a file is no change of it.
    fs::read(store.path("image/vmlinux")).expect("read");
    opened(&artifact.machine.boot.kernel).watch().expect("watched").check().expect("unchanged");
}

#[test]
fn a_directory_with_the_promised_content_that_is_swapped_in_is_not_what_was_opened() {
    let store = Store::bootable("{}");
    let promised = store.hash();
    store.file("evil/vmlinux", "evil");
    store.file("evil/vm-config.json", "{}");
    store.file("evil/disk.img", [0; 1024]);
    // Loaded from the evil directory, hashed in the good one.
    fs::rename(store.path("image"), store.path("good")).expect("renamed");
    fs::rename(store.path("evil"), store.path("image")).expect("renamed");
    let artifact = store.load().expect("loads");
    fs::rename(store.path("image"), store.path("evil")).expect("renamed");
    fs::rename(store.path("good"), store.path("image")).expect("renamed");
    let error =
        store.verify(&artifact, &promised).expect_err("the good one was hashed, the evil one is open");
    assert!(error.contains("/store/image\": it was changed after it was opened for the machine"), "{error}");
    assert!(error.contains("another file is in its place"), "{error}");
}

#[test]
fn a_file_that_is_swapped_for_an_equal_one_and_back_is_found() {
    let store = Store::bootable("{}");
    let promised = store.hash();
    store.file("evil", "evil");
    fs::rename(store.path("image/vmlinux"), store.path("good")).expect("renamed");
    fs::rename(store.path("evil"), store.path("image/vmlinux")).expect("renamed");
    let artifact = store.load().expect("loads");
    fs::rename(store.path("image/vmlinux"), store.path("evil")).expect("renamed");
    fs::rename(store.path("good"), store.path("image/vmlinux")).expect("renamed");
    let error = store.verify(&artifact, &promised).expect_err("another kernel is open");
    assert!(error.contains("it was changed after it was opened"), "{error}");
}

#[test]
fn an_edit_in_place_is_found_although_it_keeps_size_and_time_and_is_taken_back() {
    let store = Store::bootable("{}");
    let promised = store.hash();
    let kernel = store.path("image/vmlinux");
    edit_unseen(&kernel);
    let artifact = store.load().expect("loads");
    // The right content for the hash, the wrong one before and after.
    let file = fs::OpenOptions::new().write(true).open(&kernel).expect("opened");
    file.write_all_at(b"k", 0).expect("written");
    let error = store.verify(&artifact, &promised).expect_err("edited since");
    assert!(error.contains("/store/image/vmlinux"), "{error}");
    assert!(error.contains("its change time changed"), "{error}");

    let artifact = store.load().expect("loads");
    store.verify(&artifact, &promised).expect("as it was promised");
    edit_unseen(&kernel);
    let error = opened(&artifact.machine.boot.kernel).check_unchanged().expect_err("edited after the hash");
    let error = store.shorten(&error.to_string());
    assert_eq!(error, "\"/store/image/vmlinux\" was changed after it was opened: its change time changed");
}

#[test]
fn an_edit_through_another_hard_link_is_found() {
    let store = Store::bootable("{}");
    fs::hard_link(store.path("image/disk.img"), store.path("link")).expect("linked");
    let promised = store.hash();
    let artifact = store.load().expect("loads");
    let watch = opened(&artifact.machine.disks[0].file).watch().expect("watched");
    store.verify(&artifact, &promised).expect("verified");
    edit_unseen(&store.path("link"));
    let error = watch.check().expect_err("edited").to_string();
    assert!(error.contains("disk.img"), "{error}");
    // A hard link in place of a file is another file, however its content.
    let artifact = store.load().expect("loads");
    fs::copy(store.path("image/vmlinux"), store.path("copy")).expect("copied");
    fs::remove_file(store.path("image/vmlinux")).expect("removed");
    fs::hard_link(store.path("copy"), store.path("image/vmlinux")).expect("linked");
    let error = store.verify(&artifact, &store.hash()).expect_err("another file");
    assert!(error.contains("it was changed after it was opened"), "{error}");
}

#[test]
fn an_edit_while_the_rest_is_hashed_is_found() {
    let store = Store::bootable("{}");
    let promised = store.hash();
    let artifact = store.load().expect("loads");
    let (disk, mut is_edited) = (store.path("image/disk.img"), false);
    let error = store.verify_meanwhile(&artifact, &promised, |_| {
        // The disk, which comes first, has been read.
        if !std::mem::replace(&mut is_edited, true) {
            edit_unseen(&disk);
        }
    });
    let error = error.expect_err("edited");
    assert!(error.contains("disk.img"), "{error}");
}

#[test]
fn what_leads_to_a_file_counts_too() {
    let store = Store::bootable(r#"{"payload": {"kernel": "boot/link/vmlinux"}}"#);
    store.file("image/boot/a/vmlinux", "kernel a");
    store.file("image/boot/b/vmlinux", "kernel b");
    symlink("b", store.path("image/boot/link")).expect("a link");
    let other = store.load().expect("loads");
    fs::remove_file(store.path("image/boot/link")).expect("removed");
    symlink("a", store.path("image/boot/link")).expect("a link");
    let promised = store.hash();
    let error = store.verify(&other, &promised).expect_err("the link led elsewhere");
    assert!(error.contains("/store/image/boot"), "{error}");

    let artifact = store.load().expect("loads");
    fs::rename(store.path("image/boot"), store.path("image/elsewhere")).expect("renamed");
    let error = store.verify(&artifact, &promised).expect_err("it is gone");
    assert!(error.contains("/store/image"), "{error}");
}

/// What a receiver got of a file.
fn copy(pieces: &Receiver<Piece>, target: &File) -> Option<u64> {
    for piece in pieces {
        match piece {
            Piece::Data { offset, bytes } => target.write_all_at(&bytes, offset).expect("written"),
            Piece::Hole { offset, length } => target.set_len(offset + length).expect("sized"),
            Piece::End { size } => return Some(size),
        }
    }
    None
}

#[test]
fn one_read_gives_the_hash_and_a_copy() {
    let store = Store::bootable("{}");
    let image = File::create(store.path("image/disk.img")).expect("created");
    image.set_len(64 << 20).expect("sized");
    image.write_all_at(&vec![7; 700 << 10], 3 << 20).expect("written");
    image.write_all_at(b"end", (64 << 20) - 3).expect("written");
    let (promised, store_path) = (store.hash(), store.path("image"));
    let artifact = store.load().expect("loads");
    let met = artifact.trail.in_path(&store_path).expect("its own path");
    let (sender, receiver) = sync_channel(FEED_DEPTH);
    let target = File::create(store.path("copy")).expect("created");
    let copied = std::thread::spawn(move || copy(&receiver, &target));
    let feed = Feed { path: "disk.img".into(), pieces: sender, is_urgent: Box::new(|| false) };
    let loaded = LoadedPath { store_path: &store_path, met, feeds: vec![feed] };
    verify_loaded(&store.roots, loaded, &promised, &mut go_on).expect("verified");
    assert_eq!(copied.join().expect("no panic"), Some(64 << 20));
    let original = fs::read(store.path("image/disk.img")).expect("read");
    assert!(fs::read(store.path("copy")).expect("read") == original, "the same content");
}

#[test]
fn a_receiver_that_stands_still_or_goes_holds_up_nobody() {
    let store = Store::bootable("{}");
    fs::write(store.path("image/disk.img"), vec![1; 8 << 20]).expect("written");
    let (promised, store_path) = (store.hash(), store.path("image"));
    let artifact = store.load().expect("loads");
    let met = artifact.trail.in_path(&store_path).expect("its own path");
    for keeps_receiver in [true, false] {
        let (sender, receiver) = sync_channel(FEED_DEPTH);
        let receiver = keeps_receiver.then_some(receiver);
        let feed = Feed { path: "disk.img".into(), pieces: sender, is_urgent: Box::new(|| true) };
        let loaded = LoadedPath { store_path: &store_path, met, feeds: vec![feed] };
        verify_loaded(&store.roots, loaded, &promised, &mut go_on).expect("verified");
        if let Some(receiver) = receiver {
            let got: Vec<Piece> = receiver.iter().collect();
            assert!(!got.iter().any(|piece| matches!(piece, Piece::End { .. })), "it got a part");
        }
    }
}

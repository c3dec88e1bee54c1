//! Archives as strangers make them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::*;

/// A string as archives have them.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut token = (bytes.len() as u64).to_le_bytes().to_vec();
    token.extend(bytes);
    token.resize(token.len().next_multiple_of(8), 0);
    token
}

fn strings(all: &[&[u8]]) -> Vec<u8> {
    all.iter().flat_map(|bytes| string(bytes)).collect()
}

fn file(content: &[u8]) -> Vec<u8> {
    strings(&[b"(", b"type", b"regular", b"contents", content, b")"])
}

fn link(target: &[u8]) -> Vec<u8> {
    strings(&[b"(", b"type", b"symlink", b"target", target, b")"])
}

fn directory(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let mut all = strings(&[b"(", b"type", b"directory"]);
    for (name, node) in entries {
        all.extend(strings(&[b"entry", b"(", b"name", name, b"node"]));
        all.extend(node);
        all.extend(string(b")"));
    }
    all.extend(string(b")"));
    all
}

fn archive(node: &[u8]) -> Vec<u8> {
    [&string(b"nix-archive-1"), node].concat()
}

fn unpacked(archive: &[u8]) -> (tempfile::TempDir, Result<(), NarFormatError>) {
    let place = tempfile::tempdir().expect("a directory");
    let opened = File::open(place.path()).expect("open");
    let outcome = unpack(archive, opened.as_fd(), "it");
    (place, outcome)
}

#[test]
fn a_tree_is_made_with_modes_times_and_holes() {
    let mut disk = vec![0; 1 << 20];
    disk[700_000] = 7;
    let program = strings(&[b"(", b"type", b"regular", b"executable", b"", b"contents", b"#!", b")"]);
    let tree = directory(&[
        (b"disk.img", file(&disk)),
        (b"empty", file(b"")),
        (b"link", link(b"/nix/store/elsewhere")),
        (b"run", program),
        (b"sub", directory(&[(b"deep", file(b"text"))])),
    ]);
    let (place, outcome) = unpacked(&archive(&tree));
    outcome.expect("unpacked");
    let path = |name: &str| place.path().join("it").join(name);
    assert!(fs::read(path("disk.img")).expect("read") == disk);
    let blocks = fs::metadata(path("disk.img")).expect("there").blocks();
    assert!(blocks * 512 < 100_000, "{blocks} blocks for one byte");
    assert_eq!(fs::read(path("sub/deep")).expect("read"), b"text");
    assert_eq!(fs::read_link(path("link")).expect("a link").to_str(), Some("/nix/store/elsewhere"));
    for (name, mode) in [("empty", 0o444), ("run", 0o555), ("sub", 0o555), ("", 0o555)] {
        let metadata = fs::metadata(path(name)).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
        assert_eq!(metadata.mtime(), 1, "{name}");
    }
}

#[test]
fn an_archive_may_be_a_file_alone() {
    let (place, outcome) = unpacked(&archive(&file(b"all there is")));
    outcome.expect("unpacked");
    assert_eq!(fs::read(place.path().join("it")).expect("read"), b"all there is");
}

#[test]
fn what_would_leave_the_place_or_is_spelled_otherwise_is_refused() {
    let one = || file(b"x");
    let mut padded = archive(&file(b"x"));
    let last = padded.iter().rposition(|byte| *byte == b'x').expect("there");
    padded[last + 1] = 1;
    for (bytes, said) in [
        (archive(&directory(&[(b"..", one())])), "no file name"),
        (archive(&directory(&[(b"a/b", one())])), "no file name"),
        (archive(&directory(&[(b"", one())])), "no file name"),
        (archive(&directory(&[(b"a\0", one())])), "no file name"),
        (archive(&directory(&[(b"b", one()), (b"a", one())])), "ascending"),
        (archive(&directory(&[(b"a", link(b"/etc")), (b"a", directory(&[]))])), "ascending"),
        (archive(&link(b"")), "target is empty"),
        (archive(&strings(&[b"(", b"type", b"device"])), "neither regular"),
        ([archive(&one()), vec![0]].concat(), "something follows"),
        (padded, "padding"),
        (strings(&[b"nix-archive-2"]), "does not begin"),
        (string(&[b'a'; 300]), "longer than any"),
    ] {
        let (_place, outcome) = unpacked(&bytes);
        let refused = outcome.expect_err(said).to_string();
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn a_length_that_is_a_lie_costs_nothing() {
    let mut bytes = archive(&strings(&[b"(", b"type", b"regular", b"contents"]));
    bytes.extend(u64::MAX.to_le_bytes());
    let (_place, outcome) = unpacked(&bytes);
    assert!(matches!(outcome, Err(NarFormatError::Read { .. })), "{outcome:?}");
    let mut bytes = archive(&strings(&[b"(", b"type", b"symlink", b"target"]));
    bytes.extend(u64::MAX.to_le_bytes());
    assert!(matches!(unpacked(&bytes).1, Err(NarFormatError::Format { .. })));
}

#[test]
fn directories_have_a_deepest() {
    let nested = |count: usize| {
        let nested = (0..count).fold(file(b"x"), |node, _| directory(&[(b"d", node)]));
        unpacked(&archive(&nested)).1
    };
    nested(tree::DEEPEST).expect("accepted");
    nested(tree::DEEPEST + 1).expect_err("refused");
}

proptest! {
    #[test]
    fn no_bytes_lead_out_of_the_place(flips in proptest::collection::vec((0..600_usize, any::<u8>()), 1..6)) {
        let tree = directory(&[
            (b"a", file(b"content of some length")),
            (b"b", directory(&[(b"c", link(b"target")), (b"d", file(b""))])),
        ]);
        let mut bytes = archive(&tree);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let (place, _) = unpacked(&bytes);
        let names: Vec<_> = fs::read_dir(place.path()).expect("read").map(|entry| entry.expect("one").file_name()).collect();
        prop_assert!(names.iter().all(|name| name == "it"), "{:?}", names);
    }
}

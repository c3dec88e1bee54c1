//! The hasher against a reference encoder and against the real Nix.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::store::StoreRoots;
use crate::tests::chain;

/// A file tree in memory.
#[derive(Clone, Debug)]
enum Tree {
    File { executable: bool, content: Vec<u8> },
    Link(String),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    fn write(&self, path: &Path) {
        match self {
            Self::File { executable, content } => {
                fs::write(path, content).expect("a file");
                let mode = if *executable { 0o555 } else { 0o444 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
            }
            Self::Link(target) => symlink(target, path).expect("a link"),
            Self::Directory(entries) => {
                fs::create_dir(path).expect("a directory");
                for (name, entry) in entries {
                    entry.write(&path.join(std::ffi::OsStr::from_bytes(name)));
                }
            }
        }
    }

    /// The archive, all of it in memory.
    fn encode(&self, archive: &mut Vec<u8>) {
        match self {
            Self::File { executable, content } => {
                strings(archive, &[b"(", b"type", b"regular"]);
                if *executable {
                    strings(archive, &[b"executable", b""]);
                }
                strings(archive, &[b"contents", content, b")"]);
            }
            Self::Link(target) => {
                strings(archive, &[b"(", b"type", b"symlink", b"target", target.as_bytes(), b")"]);
            }
            Self::Directory(entries) => {
                strings(archive, &[b"(", b"type", b"directory"]);
                for (name, entry) in entries {
                    strings(archive, &[b"entry", b"(", b"name", name, b"node"]);
                    entry.encode(archive);
                    strings(archive, &[b")"]);
                }
                strings(archive, &[b")"]);
            }
        }
    }

    fn hash(&self) -> NarHash {
        let mut archive = Vec::new();
        strings(&mut archive, &[b"nix-archive-1"]);
        self.encode(&mut archive);
        NarHash::new(Sha256::digest(&archive).into())
    }
}

fn strings(archive: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        archive.extend((part.len() as u64).to_le_bytes());
        archive.extend(*part);
        archive.resize(archive.len().next_multiple_of(8), 0);
    }
}

struct Store {
    base: TempDir,
    roots: StoreRoots,
}

impl Store {
    fn new() -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        let roots = StoreRoots::open(&[base.path().to_owned()]).expect("the root opens");
        Self { base, roots }
    }

    fn path(&self) -> PathBuf {
        self.base.path().join("tree")
    }

    fn hash(&self) -> Result<NarHash, String> {
        hash_store_path(&self.roots, &self.path(), &mut |_| ControlFlow::Continue(()))
            .map(|verified| verified.hash)
            .map_err(|error| {
                let base = self.base.path().to_str().expect("a plain path");
                chain(&error).replace(base, "")
            })
    }
}

fn file(content: impl Into<Vec<u8>>) -> Tree {
    Tree::File { executable: false, content: content.into() }
}

fn directory<const N: usize>(entries: [(&[u8], Tree); N]) -> Tree {
    Tree::Directory(entries.map(|(name, tree)| (name.to_vec(), tree)).into())
}

/// Everything that the format can hold, and names whose order is easily got wrong.
fn every_kind() -> Tree {
    let executable = Tree::File { executable: true, content: b"#!/bin/sh\n".to_vec() };
    directory([
        (b"empty", file("")),
        (b"eight", file("12345678")),
        (b"nine", file("123456789")),
        (b"large", file(vec![7; (1 << 20) + 3])),
        (b"run", executable),
        (b"link", Tree::Link("../away".into())),
        (b"nested", directory([(b"deep", directory([(b"file", file("x"))])), (b"none", directory([]))])),
        (b"A", file("a")),
        (b"a", file("b")),
        (b"a-b", file("c")),
        (b"a.b", file("d")),
        ("ä".as_bytes(), file("e")),
    ])
}

#[test]
fn every_kind_of_node_hashes_as_the_reference_does() {
    for tree in [every_kind(), file("alone"), Tree::Link("target".into()), directory([])] {
        let store = Store::new();
        tree.write(&store.path());
        assert_eq!(store.hash(), Ok(tree.hash()), "{tree:?}");
    }
}

#[test]
fn names_need_not_be_utf_8() {
    let tree = directory([(b"\xff\xfe", file("x")), (b"\x01", file("y"))]);
    let store = Store::new();
    tree.write(&store.path());
    assert_eq!(store.hash(), Ok(tree.hash()));
}

#[test]
fn what_an_archive_cannot_hold_is_refused_by_name() {
    let store = Store::new();
    every_kind().write(&store.path());
    let fifo = store.path().join("nested/fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
    insta::assert_snapshot!(store.hash().unwrap_err(), @r#"cannot hash store path "/tree": cannot hash "/tree/nested/fifo": it is a FIFO; regular files, directories and symbolic links are accepted"#);
}

#[test]
fn directories_too_deep_are_refused_without_harm() {
    let store = Store::new();
    let mut path = store.path();
    for _ in 0..257 {
        fs::create_dir(&path).expect("a directory");
        path.push("d");
    }
    let error = store.hash().unwrap_err();
    assert!(error.ends_with("directories more than 256 deep are not accepted"), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_no_hash() {
    for grows in [true, false] {
        let store = Store::new();
        fs::write(store.path(), vec![1; 1 << 20]).expect("a file");
        let path = store.path();
        let result = hash_store_path(&store.roots, &path, &mut |hashed| {
            let size = if grows { (1 << 20) + 1 } else { 300 << 10 };
            if hashed <= 256 << 10 {
                let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
                file.set_len(size).expect("resized");
            }
            ControlFlow::Continue(())
        });
        let error = chain(&result.expect_err("it changed"));
        assert!(error.ends_with("it changed while it was read"), "{error}");
    }
}

#[test]
fn hashing_stops_when_told() {
    let store = Store::new();
    every_kind().write(&store.path());
    let result = hash_store_path(&store.roots, &store.path(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(HashError::Nar { source: NarError::Stopped { .. }, .. })), "{result:?}");
}

#[test]
fn a_mismatch_names_both_hashes() {
    let store = Store::new();
    file("content").write(&store.path());
    let expected = file("other").hash();
    let error = verify_hash(&store.roots, &store.path(), &expected, &mut |_| ControlFlow::Continue(()))
        .expect_err("another hash");
    let text = chain(&error).replace(store.base.path().to_str().expect("plain"), "");
    insta::assert_snapshot!(text, @r#"store path "/tree" has the NAR hash sha256-4lqf23F/UpnPeS4RdBnteYmWOH2NfIsLw5OWE3UOioc=, but sha256-wht8Af2gQbvLeKRNaPYW/1vDG9ibb3UmMuWtwcNRYsI= was promised"#);
    assert!(
        verify_hash(&store.roots, &store.path(), &file("content").hash(), &mut |_| ControlFlow::Continue(()))
            .is_ok()
    );
}

#[test]
fn texts_that_are_no_hash_are_refused() {
    let refused = |text: &str| text.parse::<NarHash>().expect_err(text).to_string();
    insta::assert_snapshot!(refused("sha256-x="), @r#"invalid NAR hash "sha256-x=": what follows sha256- is no canonical base 64; accepted is the SRI form that `nix path-info --json` prints, sha256- and 44 characters of base 64"#);
    // Two texts, each with its own padding, of 8 and 24 bytes.
    insta::assert_snapshot!(refused("sha256-4/TIkm5NMpU=/DEQpj7777777777774HBSa777777777"), @r#"invalid NAR hash "sha256-4/TIkm5NMpU=/DEQpj7777777777774HBSa777777777": what follows sha256- is no canonical base 64; accepted is the SRI form that `nix path-info --json` prints, sha256- and 44 characters of base 64"#);
    insta::assert_snapshot!(refused("sha512-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), @r#"invalid NAR hash "sha512-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=": it does not start with sha256-; accepted is the SRI form that `nix path-info --json` prints, sha256- and 44 characters of base 64"#);
    insta::assert_snapshot!(refused("sha256-47DEQpj8HBSa+/TImW+5JA=="), @r#"invalid NAR hash "sha256-47DEQpj8HBSa+/TImW+5JA==": it does not hold 32 bytes; accepted is the SRI form that `nix path-info --json` prints, sha256- and 44 characters of base 64"#);
    insta::assert_snapshot!(refused("sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"), @r#"invalid NAR hash "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73": this is Nix's older form; `nix hash to-sri` turns it into the accepted one; accepted is the SRI form that `nix path-info --json` prints, sha256- and 44 characters of base 64"#);
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(executable, content)| Tree::File { executable, content }),
        "[a-z/.]{1,12}".prop_map(Tree::Link),
    ];
    let name = "[a-zA-Z0-9._+~ -]{1,6}".prop_filter("a name of its own", |name| name != "." && name != "..");
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop::collection::btree_map(name.clone().prop_map(String::into_bytes), inner, 0..6)
            .prop_map(Tree::Directory)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_hashes_as_the_reference_does(tree in tree()) {
        let store = Store::new();
        tree.write(&store.path());
        prop_assert_eq!(store.hash(), Ok(tree.hash()));
    }

    #[test]
    fn hashes_survive_text(digest: [u8; 32]) {
        let hash = NarHash::new(digest);
        prop_assert_eq!(hash.to_string().parse::<NarHash>(), Ok(hash));
        let json = serde_json::to_string(&hash).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<NarHash>(&json).expect("parses"), hash);
    }

    #[test]
    fn no_text_panics(text in "(sha256-)?\\PC{0,60}") {
        let _ = text.parse::<NarHash>();
    }
}

/// What a Nix program prints when it works on a store of its own below `home`.
fn run_nix(home: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("HOME", home)
        .env("NIX_CONF_DIR", home)
        .env("NIX_STORE_DIR", home.join("store"))
        .env("NIX_STATE_DIR", home.join("state"))
        .env("NIX_LOG_DIR", home.join("log"))
        .env_remove("NIX_REMOTE")
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run {program} (package nix-bin): {error}; PROCURATOR_SKIP_NIX_TESTS=1 leaves this out"
            )
        });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_real_nix_says_the_same() {
    if std::env::var_os("PROCURATOR_SKIP_NIX_TESTS").is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: comparison with the real Nix (PROCURATOR_SKIP_NIX_TESTS=1)");
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let conf = "build-users-group =\nsandbox = false\nsubstituters =\nexperimental-features = nix-command\n";
    fs::write(home.path().join("nix.conf"), conf).expect("a configuration");
    for (index, tree) in [every_kind(), file("alone"), directory([])].iter().enumerate() {
        let source = home.path().join(format!("tree{index}"));
        tree.write(&source);
        let source = source.to_str().expect("a plain path");
        let store_path = run_nix(home.path(), "nix-store", &["--add", source]);
        let facts = run_nix(home.path(), "nix", &["path-info", "--json", &store_path]);
        let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON");
        let promised: NarHash = facts[0]["narHash"].as_str().expect("a hash").parse().expect("SRI");
        let roots = StoreRoots::open(&[home.path().join("store")]).expect("the store opens");
        let verified =
            verify_hash(&roots, Path::new(&store_path), &promised, &mut |_| ControlFlow::Continue(()))
                .expect("the same hash");
        assert_eq!(verified.hash, tree.hash());
    }
}

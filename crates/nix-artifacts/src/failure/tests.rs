//! Each source of failure and whose matter it is, the host's exhaustion among them as the kernel really tells it.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Map;
use uuid::Uuid;
use vm_model::{NarHash, Overrides};

use super::*;
use crate::{Artifact, LoadRequest, StoreRoots, Verified, hash_store_path, load_artifact, verify_hash};

fn load(roots: &StoreRoots, store_path: PathBuf) -> Result<Artifact, ArtifactError> {
    let request = LoadRequest {
        store_path,
        overrides: Overrides::default(),
        procurator: Map::new(),
        uuid: Uuid::nil(),
    };
    load_artifact(roots, &request)
}

fn hash(roots: &StoreRoots, store_path: &Path) -> Result<Verified, HashError> {
    hash_store_path(roots, store_path, &mut |_| ControlFlow::Continue(()))
}

/// A store in which `image` can be loaded.
fn store() -> (tempfile::TempDir, StoreRoots) {
    let base = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(base.path().join("image")).expect("a directory");
    for (name, content) in [("vm-config.json", "{}"), ("vmlinux", "kernel"), ("disk.img", &"\0".repeat(512))]
    {
        fs::write(base.path().join("image").join(name), content).expect("a file");
    }
    let roots = StoreRoots::open(&[base.path().to_owned()]).expect("the root opens");
    (base, roots)
}

#[test]
fn the_host_is_told_from_the_path() {
    for errno in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::IO,
        Errno::ACCESS,
        Errno::PERM,
        Errno::STALE,
        Errno::AGAIN,
        Errno::NODEV,
    ] {
        assert_eq!(FailureCause::of_errno(errno), FailureCause::Host, "{errno:?}");
        let path = || PathBuf::from("/store/image");
        let io = || io::Error::from(errno);
        let opening = || Box::new(ResolveError::Io { path: path(), source: errno });
        let kinds = [
            ArtifactError::StorePath(StorePathError::Open { path: path(), source: errno }).kind(),
            ArtifactError::OpenConfig { file: path(), source: opening() }.kind(),
            ArtifactError::Look { file: path(), source: opening() }.kind(),
            ArtifactError::ReadConfig { file: path(), source: io() }.kind(),
            ArtifactError::OpenFile { file: path(), wanted: String::new(), source: opening() }.kind(),
            ArtifactError::UnusableFile {
                file: path(),
                wanted: String::new(),
                source: Box::new(ImageError::Read(io())),
            }
            .kind(),
            HashError::Nar { store_path: path(), source: NarError::Read { path: path(), source: io() } }
                .kind(),
            HashError::Identity { store_path: path(), source: errno }.kind(),
        ];
        assert_eq!(kinds, [FailureKind::Host; 8], "{errno:?}");
    }
}

#[test]
fn what_changed_meanwhile_is_tried_again() {
    let path = || PathBuf::from("/store/image");
    let changed = NarError::Changed { path: path() };
    assert_eq!(HashError::Nar { store_path: path(), source: changed }.cause(), FailureCause::Host);
    assert_eq!(HashError::Replaced { store_path: path() }.cause(), FailureCause::Host);
}

#[test]
fn a_store_path_that_is_missing_is_told_from_a_wrong_one() {
    let (base, roots) = store();
    let missing = base.path().join("missing");
    let error = load(&roots, missing.clone()).expect_err("it is missing");
    assert!(error.is_missing() && error.cause().can_retry_help(), "{error}");
    assert_eq!(error.kind(), FailureKind::Artifact);
    assert!(hash(&roots, &missing).expect_err("it is missing").is_missing());
    assert!(roots.identify(&missing).expect_err("it is missing").is_missing());

    // A kernel in another store path, and what a description can get wrong.
    let kernel = |kernel: &str| {
        let config = format!(r#"{{"payload": {{"kernel": {kernel:?}}}}}"#);
        fs::write(base.path().join("image/vm-config.json"), config).expect("a file");
        load(&roots, base.path().join("image")).expect_err("there is no such kernel")
    };
    assert!(kernel(missing.join("vmlinux").to_str().expect("a plain path")).is_missing());
    for wrong in ["gone", "vmlinux/x", "/etc/passwd", ".", &"x".repeat(300)] {
        let error = kernel(wrong);
        assert_eq!(error.cause(), FailureCause::Wrong, "{error}");
        assert!(!error.cause().can_retry_help() && error.kind().is_permanent());
    }
}

#[test]
fn what_no_archive_can_hold_is_wrong_for_good_and_named() {
    let (base, roots) = store();
    let node = |kind, name: &str| {
        let path = base.path().join(name);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from(0o600), 0).expect("a node");
        path
    };
    let socket = base.path().join("image/socket");
    let _listening = UnixListener::bind(&socket).expect("a socket");
    let error = hash(&roots, &base.path().join("image")).expect_err("it has a socket");
    assert_eq!((error.kind(), error.cause()), (FailureKind::Artifact, FailureCause::Wrong));
    let text = crate::tests::chain(&error);
    assert!(text.contains(socket.to_str().expect("a plain path")) && text.contains("a socket"), "{text}");
    for (path, found) in
        [(node(FileType::Fifo, "fifo"), "a FIFO"), (node(FileType::Socket, "alone"), "a socket")]
    {
        let texts = [
            crate::tests::chain(&hash(&roots, &path).expect_err("no archive")),
            crate::tests::chain(&load(&roots, path.clone()).expect_err("no directory")),
        ];
        assert!(texts.iter().all(|text| text.contains(found)), "{texts:?}");
        assert_eq!(hash(&roots, &path).expect_err("no archive").cause(), FailureCause::Wrong);
        assert_eq!(load(&roots, path).expect_err("no directory").cause(), FailureCause::Wrong);
    }
}

#[test]
fn a_wrong_hash_is_final() {
    let (base, roots) = store();
    let expected = NarHash::new([0; 32]);
    let checked =
        verify_hash(&roots, &base.path().join("image"), &expected, &mut |_| ControlFlow::Continue(()));
    let error = checked.expect_err("another hash");
    assert_eq!((error.kind(), error.cause().can_retry_help()), (FailureKind::HashMismatch, false));
}

/// Set in the process of its own in which descriptors are exhausted.
const EXHAUSTED: &str = "NIX_ARTIFACTS_TEST_EXHAUSTED";

#[test]
fn too_few_descriptors_are_the_hosts_matter_wherever_they_run_out() {
    if std::env::var_os(EXHAUSTED).is_none() {
        let own = std::env::current_exe().expect("this program");
        let name = "failure::tests::too_few_descriptors_are_the_hosts_matter_wherever_they_run_out";
        let output = Command::new(own).args(["--exact", name]).env(EXHAUSTED, "1").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let (base, roots) = store();
    let image = base.path().join("image");
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).expect("a lower limit");
    let mut succeeded = 0;
    for room in 0..12 {
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        held.truncate(held.len() - room);
        let (loaded, hashed) = (load(&roots, image.clone()), hash(&roots, &image));
        drop(held);
        succeeded += usize::from(loaded.is_ok()) + usize::from(hashed.is_ok());
        if let Err(error) = loaded {
            assert_eq!(
                error.kind(),
                FailureKind::Host,
                "with room for {room}: {}",
                crate::tests::chain(&error)
            );
        }
        if let Err(error) = hashed {
            assert_eq!(
                error.kind(),
                FailureKind::Host,
                "with room for {room}: {}",
                crate::tests::chain(&error)
            );
        }
    }
    assert!((2..24).contains(&succeeded), "{succeeded} calls had enough descriptors");
}

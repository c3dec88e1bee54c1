//! The links on a real file system, and the real Nix's word about them.

use std::process::Command;

use tempfile::TempDir;

use super::*;

/// A store with a place for roots.
struct Bench {
    home: TempDir,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        for directory in ["nix/store/abc-image", "nix/store/def-kernel", "nix/var/nix/gcroots", "state"] {
            fs::create_dir_all(home.path().join(directory)).expect("created");
        }
        Self { home }
    }

    fn store(&self) -> PathBuf {
        self.home.path().join("nix/store")
    }

    fn roots(&self) -> GcRoots {
        GcRoots::new(&[self.store()], &self.home.path().join("state"), FetchedInto::No)
    }

    /// Everything below Nix's own directory of roots that is a link.
    fn links(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.home.path().join("nix/var/nix/gcroots/procurator")];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type().expect("a type").is_dir() {
                    true => pending.push(entry.path()),
                    false => found.push(entry.file_name().to_string_lossy().into_owned()),
                }
            }
        }
        found.sort();
        found
    }
}

#[test]
fn paths_are_held_given_up_one_by_one_and_released() {
    let (bench, vm) = (Bench::new(), VmId::new("web-1"));
    let roots = bench.roots();
    let (image, kernel) = (bench.store().join("abc-image"), bench.store().join("def-kernel"));
    roots.hold(&vm, &image).expect("held");
    roots.hold(&vm, &image).expect("held already");
    roots.hold(&vm, &kernel).expect("held");
    roots.hold(&vm, Path::new("/elsewhere/image")).expect("no matter of Nix's");
    assert_eq!(bench.links(), ["abc-image", "def-kernel"]);
    roots.keep_only(&vm, &BTreeSet::from([kernel]));
    assert_eq!(bench.links(), ["def-kernel"]);
    roots.release(&vm);
    assert!(bench.links().is_empty());
    roots.release(&vm);
}

#[test]
fn what_a_killed_worker_left_goes_and_what_others_hold_stays() {
    let bench = Bench::new();
    let other = GcRoots::new(&[bench.store()], Path::new("/var/lib/other-worker"), FetchedInto::No);
    let (known, gone) = (VmId::new("web-1"), VmId::new("web-2"));
    for vm in [&known, &gone] {
        bench.roots().hold(vm, &bench.store().join("abc-image")).expect("held");
    }
    other.hold(&gone, &bench.store().join("def-kernel")).expect("held");
    bench.roots().reconcile(&BTreeSet::from([known]));
    assert_eq!(bench.links(), ["abc-image", "def-kernel"]);
}

#[test]
fn what_lies_behind_a_link_is_not_touched() {
    let bench = Bench::new();
    bench.roots().hold(&VmId::new("web-1"), &bench.store().join("abc-image")).expect("held");
    let precious = bench.home.path().join("precious");
    fs::create_dir(&precious).expect("created");
    fs::write(precious.join("file"), "of somebody").expect("written");
    symlink("/etc/hostname", precious.join("link")).expect("made");
    let own = own_name(&bench.home.path().join("state"));
    let links = bench.home.path().join("nix/var/nix/gcroots/procurator").join(own);
    symlink(&precious, links.join("ghost")).expect("made");
    fs::write(links.join("web-1/note"), "no link").expect("written");
    bench.roots().reconcile(&BTreeSet::new());
    assert!(precious.join("file").exists() && precious.join("link").is_symlink());
    assert!(!links.join("web-1/abc-image").is_symlink());
    assert!(links.join("web-1/note").exists());
}

#[test]
fn nothing_is_made_where_there_is_no_nix() {
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store");
    fs::create_dir_all(store.join("image")).expect("created");
    let roots = GcRoots::new(std::slice::from_ref(&store), home.path(), FetchedInto::No);
    roots.hold(&VmId::new("web-1"), &store.join("image")).expect("nothing to do");
    assert_eq!(fs::read_dir(home.path()).expect("listed").count(), 1);
}

#[test]
fn workers_have_names_of_their_own() {
    assert_eq!(own_name(Path::new("/var/lib/procurator")), "var-lib-procurator");
    assert_ne!(own_name(Path::new("/a/b-c")), own_name(Path::new("/a-b/c")));
}

/// What a Nix program prints when it works on the store of its own below `home`.
fn run_nix(home: &Path, arguments: &[&str]) -> String {
    let nix = home.join("nix");
    let output = Command::new("nix-store")
        .args(arguments)
        .env("HOME", home)
        .env("NIX_CONF_DIR", home)
        .env("NIX_STORE_DIR", nix.join("store"))
        .env("NIX_STATE_DIR", nix.join("var/nix"))
        .env("NIX_LOG_DIR", nix.join("var/log"))
        .env_remove("NIX_REMOTE")
        .output()
        .expect("nix-store (package nix-bin) runs; PROCURATOR_SKIP_NIX_TESTS=1 leaves this out");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nix-store {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_real_nix_collects_what_no_vm_needs_and_nothing_else() {
    if std::env::var_os("PROCURATOR_SKIP_NIX_TESTS").is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: garbage collection by the real Nix (PROCURATOR_SKIP_NIX_TESTS=1)");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let state = home.path().join("state");
    fs::write(home.path().join("nix.conf"), "build-users-group =\nsandbox = false\nsubstituters =\n")
        .expect("written");
    fs::write(home.path().join("image"), "an image").expect("written");
    let image = run_nix(home.path(), &["--add", &home.path().join("image").to_string_lossy()]);
    let dead = || run_nix(home.path(), &["--gc", "--print-dead"]).contains(&image);
    assert!(dead(), "nobody needs it yet");

    let roots = GcRoots::new(&[home.path().join("nix/store")], &state, FetchedInto::No);
    roots.hold(&VmId::new("web-1"), Path::new(&image)).expect("held");
    assert!(!dead(), "a VM needs it");
    run_nix(home.path(), &["--gc"]);
    assert!(Path::new(&image).exists());

    roots.release(&VmId::new("web-1"));
    assert!(dead());
    run_nix(home.path(), &["--gc"]);
    assert!(!Path::new(&image).exists());
}

#[test]
fn without_nix_roots_lie_in_a_store_that_is_fetched_into() {
    let home = tempfile::tempdir().expect("a directory");
    let (store, vm) = (home.path().join("store"), VmId::new("web-1"));
    fs::create_dir(&store).expect("created");
    let hold = |fetched_into| {
        let roots = GcRoots::new(std::slice::from_ref(&store), home.path(), fetched_into);
        roots.hold(&vm, &store.join("abc-image")).expect("held");
    };
    hold(FetchedInto::No);
    assert!(!store.join(WITHOUT_NIX).exists(), "nobody collects there");
    hold(FetchedInto::Yes);
    let link = store.join(WITHOUT_NIX).join(own_name(home.path())).join("web-1/abc-image");
    assert_eq!(fs::read_link(link).expect("a link"), store.join("abc-image"));
}

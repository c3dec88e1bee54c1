//! Resolution against real directories: what is found, what is refused, and that nothing leaves the roots.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use rustix::fs::{FileType, Mode, OFlags};

use super::*;
use crate::tests::chain;

/// Two roots and a place outside of both, below one temporary directory.
struct Farm {
    base: TempDir,
    roots: StoreRoots,
}

impl Farm {
    fn new() -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        let make = |name: &str| {
            let path = base.path().join(name);
            fs::create_dir(&path).expect("a directory");
            path
        };
        make("outside");
        let roots = StoreRoots::open(&[make("store"), make("other")]).expect("both roots open");
        let farm = Self { base, roots };
        fs::create_dir(farm.path("store/image")).expect("a directory");
        farm.file("outside/secret", "secret");
        farm
    }

    fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    fn file(&self, below: &str, content: &str) {
        fs::create_dir_all(self.path(below).parent().expect("a parent")).expect("directories");
        fs::write(self.path(below), content).expect("a file");
    }

    fn link(&self, below: &str, target: impl AsRef<Path>) {
        fs::create_dir_all(self.path(below).parent().expect("a parent")).expect("directories");
        symlink(target, self.path(below)).expect("a link");
    }

    /// The content of `path` as the store path `store/image` sees it, or the error, with the base shortened.
    fn open(&self, path: impl AsRef<Path>) -> Result<String, String> {
        self.open_noting(path).map(|(content, _)| content)
    }

    fn open_noting(&self, path: impl AsRef<Path>) -> Result<(String, Vec<String>), String> {
        let home = self.roots.find_directory(&self.path("store/image")).expect("the store path");
        let mut resolver = Resolver::new(&self.roots, home).expect("an identity");
        match resolver.open(path.as_ref()) {
            Ok(opened) => {
                let mut content = String::new();
                opened.file().read_to_string(&mut content).expect("readable");
                assert_eq!(opened.size(), content.len() as u64);
                let (trail, own) = (resolver.into_trail(), self.path("store/image"));
                let others = trail.store_paths().filter(|path| *path != own);
                Ok((content, others.map(|path| self.shorten(path.display())).collect()))
            }
            Err(error) => Err(self.shorten(chain(&error))),
        }
    }

    fn shorten(&self, text: impl ToString) -> String {
        text.to_string().replace(self.base.path().to_str().expect("a plain path"), "")
    }
}

#[test]
fn relative_and_absolute_paths_lead_to_the_same_file() {
    let farm = Farm::new();
    farm.file("store/image/boot/vmlinux", "kernel");
    for path in ["boot/vmlinux", "./boot//vmlinux", "boot/../boot/vmlinux"] {
        assert_eq!(farm.open(path).as_deref(), Ok("kernel"), "{path}");
    }
    assert_eq!(farm.open(farm.path("store/image/boot/vmlinux")).as_deref(), Ok("kernel"));
}

#[test]
fn links_are_rebased_on_the_root_that_holds_their_target() {
    let farm = Farm::new();
    farm.file("other/kernel/vmlinux", "kernel");
    farm.file("store/disk", "disk");
    farm.link("store/image/vmlinux", farm.path("store/hop/up/vmlinux"));
    farm.link("store/hop/up", "../hop/across");
    farm.link("store/hop/across", farm.path("other/kernel"));
    farm.link("store/image/disk", "../disk");
    let (content, passed) = farm.open_noting("vmlinux").expect("opened");
    assert_eq!(content, "kernel");
    assert_eq!(passed, ["/other/kernel", "/store/hop"]);
    let (content, passed) = farm.open_noting("disk").expect("opened");
    assert_eq!((content.as_str(), passed), ("disk", vec!["/store/disk".to_owned()]));
}

#[test]
fn nothing_outside_the_roots_is_opened() {
    let farm = Farm::new();
    farm.link("store/image/absolute", "/etc/passwd");
    farm.link("store/image/relative", "../../outside/secret");
    farm.link("store/image/directory", farm.path("outside"));
    farm.link("store/image/proc", "/proc/self/root/etc/passwd");
    insta::assert_snapshot!(farm.open("absolute").unwrap_err(), @r#""/store/image/absolute" is a link to "/etc/passwd", which is outside the configured store roots /store, /other"#);
    insta::assert_snapshot!(farm.open("relative").unwrap_err(), @r#""/store/image/relative" is a link to "../../outside/secret", which is outside the configured store roots /store, /other"#);
    insta::assert_snapshot!(farm.open("directory/secret").unwrap_err(), @r#""/store/image/directory" is a link to "/outside", which is outside the configured store roots /store, /other"#);
    insta::assert_snapshot!(farm.open("proc").unwrap_err(), @r#""/store/image/proc" is a link to "/proc/self/root/etc/passwd", which is outside the configured store roots /store, /other"#);
    insta::assert_snapshot!(farm.open("../../outside/secret").unwrap_err(), @r#""../../outside/secret" is outside the configured store roots /store, /other"#);
    insta::assert_snapshot!(farm.open("/etc/passwd").unwrap_err(), @r#""/etc/passwd" is outside the configured store roots /store, /other"#);
    let through = farm.path("store/../outside/secret");
    insta::assert_snapshot!(farm.open(through).unwrap_err(), @r#""/store/../outside/secret" is outside the configured store roots /store, /other"#);
}

#[test]
fn what_is_no_readable_file_is_told_apart() {
    let farm = Farm::new();
    farm.file("store/image/file", "x");
    farm.file("store/.links/file", "x");
    fs::create_dir(farm.path("store/image/directory")).expect("a directory");
    farm.link("store/image/dangling", "gone/vmlinux");
    farm.link("store/image/loop", "loop");
    farm.link("store/image/down", "directory");
    let fifo = farm.path("store/image/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
    insta::assert_snapshot!(farm.open("missing").unwrap_err(), @r#""/store/image/missing" does not exist"#);
    insta::assert_snapshot!(farm.open("dangling").unwrap_err(), @r#""/store/image/dangling" is a dangling link: its target "gone/vmlinux" leads to "/store/image/gone", which does not exist"#);
    insta::assert_snapshot!(farm.open("down/missing").unwrap_err(), @r#""/store/image/directory/missing" does not exist"#);
    insta::assert_snapshot!(farm.open("loop").unwrap_err(), @r#""loop" leads through more than 40 links"#);
    insta::assert_snapshot!(farm.open("directory").unwrap_err(), @r#""/store/image/directory" is a directory; a regular file is accepted"#);
    insta::assert_snapshot!(farm.open("fifo").unwrap_err(), @r#""/store/image/fifo" is a FIFO; a regular file is accepted"#);
    insta::assert_snapshot!(farm.open("file/below").unwrap_err(), @r#""/store/image/file" is a regular file, and the path goes on below it"#);
    insta::assert_snapshot!(farm.open("../.links/file").unwrap_err(), @r#""/store/.links" is no store path: accepted is one name made of letters, digits and + - . _ ? =, not starting with a dot"#);
    insta::assert_snapshot!(farm.open("a/".repeat(3000)).unwrap_err(), @"the path is longer than 4096 bytes; the longest path that Linux takes is accepted");
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let farm = Farm::new();
    farm.file("store/image/link0", "end");
    for number in 1..=41 {
        farm.link(&format!("store/image/link{number}"), format!("link{}", number - 1));
    }
    assert_eq!(farm.open("link40").as_deref(), Ok("end"));
    insta::assert_snapshot!(farm.open("link41").unwrap_err(), @r#""link41" leads through more than 40 links"#);
}

#[test]
fn links_that_grow_while_they_are_followed_end() {
    let farm = Farm::new();
    farm.link("store/image/grow", format!("grow/{}", "x/".repeat(200)));
    insta::assert_snapshot!(farm.open("grow").unwrap_err(), @"the path is longer than 4096 bytes; the longest path that Linux takes is accepted");
}

#[test]
fn an_unreadable_file_is_said_to_be_that() {
    // Root reads everything, so the refusal is only seen by others.
    let farm = Farm::new();
    farm.file("store/image/private", "x");
    fs::set_permissions(farm.path("store/image/private"), fs::Permissions::from_mode(0o000)).expect("chmod");
    match farm.open("private") {
        Ok(_) => assert!(rustix::process::geteuid().is_root(), "only root reads it"),
        Err(error) => assert!(error.contains("no permission to open \"/store/image/private\""), "{error}"),
    }
}

#[test]
fn opened_files_close_on_exec_and_do_not_answer_again() {
    let farm = Farm::new();
    farm.file("store/image/file", "x");
    let home = farm.roots.find_directory(&farm.path("store/image")).expect("found");
    let mut resolver = Resolver::new(&farm.roots, home).expect("an identity");
    let opened = resolver.open(Path::new("file")).expect("opened");
    let flags = rustix::io::fcntl_getfd(&opened).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let status = rustix::fs::fcntl_getfl(&opened).expect("flags");
    assert!(!status.contains(OFlags::NONBLOCK));
}

#[test]
fn store_paths_lie_directly_below_a_root() {
    let farm = Farm::new();
    farm.file("store/image/below/file", "x");
    farm.file("store/file", "x");
    farm.link("store/link", "image");
    let refused = |below: &str| {
        let error = farm.roots.find_directory(&farm.path(below)).expect_err(below);
        farm.shorten(chain(&error))
    };
    insta::assert_snapshot!(refused("store/image/below"), @r#""/store/image/below" is no store path: accepted is one component directly below /store, /other"#);
    insta::assert_snapshot!(refused("store"), @r#""/store" is no store path: accepted is one component directly below /store, /other"#);
    insta::assert_snapshot!(refused("outside/image"), @r#""/outside/image" is no store path: accepted is one component directly below /store, /other"#);
    insta::assert_snapshot!(refused("store/../outside"), @r#""/store/../outside" is no store path: accepted is one component directly below /store, /other"#);
    insta::assert_snapshot!(refused("store/.hidden"), @r#""/store/.hidden" is no store path: below "/store", accepted is one name made of letters, digits and + - . _ ? =, not starting with a dot"#);
    insta::assert_snapshot!(refused("store/missing"), @r#"cannot open store path "/store/missing": No such file or directory (os error 2)"#);
    insta::assert_snapshot!(refused("store/file"), @r#""/store/file" is a regular file; an artifact's store path is a directory"#);
    insta::assert_snapshot!(refused("store/link"), @r#""/store/link" is a symbolic link; an artifact's store path is a directory"#);
    assert!(farm.roots.find_directory(&farm.path("store//image/")).is_ok());
}

#[test]
fn roots_are_absolute_directories() {
    let refused = |path: &str| chain(&StoreRoots::open(&[path.into()]).expect_err(path));
    insta::assert_snapshot!(refused("nix/store"), @r#"store root "nix/store": an absolute path without '.' and '..' is accepted"#);
    insta::assert_snapshot!(refused("/nix/../etc"), @r#"store root "/nix/../etc": an absolute path without '.' and '..' is accepted"#);
    insta::assert_snapshot!(refused("/proc/version"), @r#"cannot open store root "/proc/version" as a directory: Not a directory (os error 20)"#);
}

#[test]
fn without_roots_every_path_is_refused() {
    let roots = StoreRoots::open(&[]).expect("none is needed");
    insta::assert_snapshot!(chain(&roots.identify(Path::new("/nix/store/x")).expect_err("refused")), @r#""/nix/store/x" is no store path: accepted is one component directly below a store root, of which none is configured"#);
}

#[test]
fn an_identity_changes_with_its_path() {
    let farm = Farm::new();
    let path = farm.path("store/image");
    let before = farm.roots.identify(&path).expect("an identity");
    assert_eq!(farm.roots.identify(&path).expect("an identity"), before);
    let json = serde_json::to_string(&before).expect("serialises");
    assert_eq!(serde_json::from_str::<vm_model::FileIdentity>(&json).expect("parses"), before);
    fs::rename(&path, farm.path("store/away")).expect("renamed");
    fs::create_dir(&path).expect("another");
    assert_ne!(farm.roots.identify(&path).expect("an identity"), before);
}

/// A place where a link can lie or point to.
fn place() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        Just(".."),
        Just("."),
        Just("a"),
        Just("b"),
        Just("image"),
        Just("store"),
        Just("outside"),
        Just("other"),
        Just("secret"),
        Just("file"),
    ];
    prop::collection::vec(component, 1..6).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_links_there_are_only_files_below_the_roots_are_opened(
        links in prop::collection::vec((place(), place(), any::<bool>()), 0..12),
        wanted in prop::collection::vec(place(), 1..8),
    ) {
        let farm = Farm::new();
        farm.file("store/image/file", "inside");
        farm.file("other/a/file", "inside");
        farm.file("outside/file", "secret");
        for (place, target, absolute) in &links {
            let place = farm.path("store").join(place.replace("..", "a"));
            let _ = fs::create_dir_all(place.parent().expect("a parent"));
            let target = if *absolute { farm.base.path().join(target) } else { target.into() };
            let _ = symlink(target, place);
        }
        for path in wanted {
            if let Ok(content) = farm.open(&path) {
                prop_assert_eq!(content, "inside", "{}", path);
            }
            if let Ok(content) = farm.open(farm.base.path().join(&path)) {
                prop_assert_eq!(content, "inside", "{}", path);
            }
        }
    }
}

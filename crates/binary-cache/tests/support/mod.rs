//! A store that the real Nix built, a binary cache of it that the real Nix wrote and signed, and a web server for it.

use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use binary_cache::{FetchError, FetchSettings, Fetched, Fetcher, Progress, Store, TrustedKey};
use tempfile::TempDir;
use tokio::sync::watch;
use vm_model::{Bytes, StoreName};

use test_host::NixHost;
pub(crate) use test_host::{Behaviour, CacheServer as Server};

/// What is built: `image` refers to `kernel`; both are a megabyte or more that does not compress, and `image` has a hole.
const EXPRESSION: &str = r#"
let kernel = derivation { name = "kernel"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      args = [ "-c" "mkdir $out; seq 1 300000 | sha256sum > $out/id; head -c 1000000 /dev/urandom > $out/vmlinux" ]; };
in derivation { name = "image"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; inherit kernel;
      args = [ "-c" ''mkdir $out; ln -s $kernel/vmlinux $out/vmlinux; echo '#!' > $out/run; chmod +x $out/run
        head -c 1500000 /dev/urandom > $out/disk.img; truncate -s 16M $out/disk.img; echo $out > $out/self'' ]; }
"#;

/// The place of one test.
pub(crate) struct Place {
    host: NixHost,
    pub(crate) name: StoreName,
    pub(crate) key: TrustedKey,
    _directory: TempDir,
}

impl Place {
    /// Builds, copies into a cache compressed as `compression`, and takes the store away.
    pub(crate) fn new(compression: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let host = NixHost::of(directory.path().to_owned());
        let built = host.run("nix-build", ["--no-out-link", "-E", EXPRESSION]);
        host.put_into_cache(Path::new(built.trim()), compression);
        host.lose_store("built");
        let name = built.trim().rsplit('/').next().expect("a name").parse().expect("a store name");
        let key = host.key().parse().expect("a key");
        Self { host, name, key, _directory: directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.host.path(name)
    }

    /// The store that is fetched into.
    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.path("nix/store")).expect("a store"))
    }

    /// As [`Place::store`], kept by Nix.
    pub(crate) fn nix_store(&self) -> Arc<Store> {
        fs::create_dir_all(self.path("nix/store")).expect("made");
        self.nix("nix-store", &["--init"]);
        self.store()
    }

    /// Runs one of Nix's programs on the store; what it printed.
    pub(crate) fn nix(&self, program: &str, arguments: &[&str]) -> String {
        self.host.run(program, arguments)
    }

    pub(crate) fn settings(&self, caches: &[&str]) -> FetchSettings {
        FetchSettings {
            caches: caches.iter().map(|cache| cache.parse().expect("a cache")).collect(),
            trusted_keys: vec![self.key.clone()],
            parallel: NonZeroUsize::new(2).expect("two"),
            largest: Bytes::new(1 << 30),
            authorities: "/etc/ssl/certs/ca-certificates.crt".into(),
        }
    }

    /// The cache as a directory.
    pub(crate) fn as_files(&self) -> String {
        format!("file://{}", self.path("cache").display())
    }

    pub(crate) async fn fetch(
        &self,
        settings: FetchSettings,
        store: &Arc<Store>,
    ) -> Result<Fetched, FetchError> {
        Fetcher::new(settings).fetch(&self.name, store, &watch::Sender::new(Progress::default())).await
    }

    /// Checks that what is in the store is what was built, file by file, and that nothing else is left there.
    pub(crate) fn check(&self) {
        let difference = run(Command::new("diff").arg("-r").arg("--no-dereference").args([
            self.path("built/store").join(self.name.as_str()),
            self.path("nix/store").join(self.name.as_str()),
        ]));
        assert_eq!(difference, "");
        assert_eq!(self.there().len(), 2, "{:?}", self.there());
    }

    /// What lies in the store.
    pub(crate) fn there(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("nix/store")).expect("read");
        let names = entries.map(|entry| entry.expect("one").file_name().into_string().expect("text"));
        names.filter(|name| name != ".links" && name != ".procurator-fetched").collect()
    }

    /// What lies where paths are fetched to.
    pub(crate) fn staged(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("nix/store/.procurator-fetch")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().expect("text")).collect()
    }

    /// Has a fetch from `server` given up when something of the image's archive has come.
    pub(crate) async fn cut_short(&self, server: &Server, store: &Arc<Store>) {
        // It would go on for ever: a few bytes come with each connection.
        server.behave(Behaviour::Cuts(64));
        let archive = format!("/{}", self.archive());
        let fetch = self.fetch(self.settings(&[&server.url()]), store);
        tokio::pin!(fetch);
        while server.requests(&archive) < 3 {
            tokio::select! {
                outcome = &mut fetch => panic!("it cannot end: {outcome:?}"),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// Has a fetch from `server` cut short, and writes `bytes` in place of what it left of the image's archive.
    pub(crate) async fn leave_partial(&self, server: &Server, bytes: &[u8]) {
        self.cut_short(server, &self.store()).await;
        while self.staged() != ["partial"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let directory = self.path("nix/store/.procurator-fetch/partial");
        let files = fs::read_dir(directory).expect("left").flatten().map(|file| file.path());
        let files: Vec<PathBuf> = files.collect();
        let of_image = |file: &&PathBuf| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(self.name.hash_part()))
        };
        fs::write(files.iter().find(of_image).expect("the image's"), bytes).expect("written");
    }

    /// Has the store lie on a file system of its own of `size` bytes.
    pub(crate) fn small_store(&self, size: u64) -> SmallDisk {
        let path = self.path("nix");
        fs::create_dir_all(&path).expect("made");
        let size = format!("size={size}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "test-store"]).arg(&path));
        SmallDisk(path)
    }

    /// The file of the image's archive in the cache, relative to it.
    pub(crate) fn archive(&self) -> String {
        let narinfo = fs::read_to_string(self.narinfo()).expect("read");
        let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
        url.expect("it has one").to_owned()
    }

    pub(crate) fn narinfo(&self) -> PathBuf {
        self.path("cache").join(format!("{}.narinfo", self.name.hash_part()))
    }
}

/// A file system in memory, mounted until this is dropped. Only root may do that, as whom the tests of this workspace run.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("made");
        let piece = vec![0; 64 << 10];
        while file.write_all(&piece).is_ok() {}
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Runs `command` to its end; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

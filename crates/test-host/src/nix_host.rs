//! The real Nix with a store, a state and a configuration of its own, and the binary cache that it fills.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Nix is told: to build and to fetch as whoever runs it, with nobody's help.
const CONF: &str =
    "build-users-group =\nsandbox = false\nsubstituters =\nexperimental-features = nix-command\n";

/// A directory in which Nix has all that is its own: `nix/store` and its state, and beside them `cache`, which it fills.
#[derive(Debug)]
pub struct NixHost {
    place: PathBuf,
}

impl NixHost {
    /// One in `place`, where nothing is yet, with a key to sign what goes into the cache.
    ///
    /// # Panics
    ///
    /// Where Nix cannot be run.
    #[must_use]
    pub fn of(place: PathBuf) -> Self {
        let host = Self { place };
        fs::create_dir_all(host.path("conf")).expect("made");
        fs::write(host.path("conf/nix.conf"), CONF).expect("written");
        let keys = [host.path("secret"), host.path("public")];
        let make = ["--generate-binary-cache-key".as_ref(), "test-1".as_ref()];
        host.run("nix-store", make.into_iter().chain(keys.iter().map(|key| key.as_os_str())));
        host
    }

    /// What is called `name` in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// The key that the cache is signed with, to be trusted.
    ///
    /// # Panics
    ///
    /// Where somebody took it away.
    #[must_use]
    pub fn key(&self) -> String {
        fs::read_to_string(self.path("public")).expect("read").trim().to_owned()
    }

    /// Runs one of Nix's programs on its store; what it printed.
    ///
    /// # Panics
    ///
    /// Where the program fails.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = Command::new(program);
        command
            .env("NIX_STORE_DIR", self.path("nix/store"))
            .env("NIX_STATE_DIR", self.path("nix/var/nix"))
            .env("NIX_LOG_DIR", self.path("nix/var/log/nix"))
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("HOME", &self.place)
            .args(arguments);
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Puts a path of its store, and what that refers to, into the cache, compressed as `compression` (`none`, `zstd`, `xz`).
    ///
    /// # Panics
    ///
    /// Where Nix refuses.
    pub fn put_into_cache(&self, path: &Path, compression: &str) {
        let (cache, secret) = (self.path("cache"), self.path("secret"));
        let url =
            format!("file://{}?compression={compression}&secret-key={}", cache.display(), secret.display());
        self.run("nix", ["copy".as_ref(), "--to".as_ref(), url.as_ref(), path.as_os_str()]);
    }

    /// Takes its store away, with its state, to `name` in its directory.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn lose_store(&self, name: &str) {
        fs::rename(self.path("nix"), self.path(name)).expect("moved");
    }
}

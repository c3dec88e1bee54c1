//! A store of Nix that is there no more, and the binary cache that the real Nix made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Artifact;

/// The cache, and the store to fetch into, which is empty and without Nix.
#[derive(Debug)]
pub struct NixCache {
    place: PathBuf,
    /// The artifacts under their names in the store, where they are missing.
    pub artifacts: Vec<Artifact>,
    /// The key that they are signed with.
    pub key: String,
}

impl NixCache {
    /// A cache of `artifacts` in `place`, where nothing is yet, compressed as `compression` (`none`, `zstd`, `xz`).
    ///
    /// # Panics
    ///
    /// Where Nix cannot be run.
    #[must_use]
    pub fn of(place: PathBuf, artifacts: &[Artifact], compression: &str) -> Self {
        let path = |name: &str| place.join(name);
        fs::create_dir_all(path("conf")).expect("made");
        let conf = "build-users-group =\nsubstituters =\nexperimental-features = nix-command\n";
        fs::write(path("conf/nix.conf"), conf).expect("written");
        let (secret, public) = (path("secret"), path("public"));
        let keys = [secret.as_os_str(), public.as_os_str()];
        run(nix(&place, "nix-store").args(["--generate-binary-cache-key", "test-1"]).args(keys));
        let cache = format!(
            "file://{}?compression={compression}&secret-key={}",
            path("cache").display(),
            secret.display()
        );
        let added = artifacts.iter().map(|artifact| {
            let added = run(nix(&place, "nix-store").arg("--add").arg(&artifact.path));
            let added = PathBuf::from(added.trim());
            run(nix(&place, "nix").args(["copy", "--to", &cache]).arg(&added));
            Artifact { path: added, ..artifact.clone() }
        });
        let artifacts = added.collect();
        fs::rename(path("nix"), path("gone")).expect("moved");
        fs::create_dir_all(path("nix/store")).expect("made");
        let key = fs::read_to_string(public).expect("read").trim().to_owned();
        Self { place, artifacts, key }
    }

    /// The store to fetch into.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.place.join("nix/store")
    }

    /// The directory of the cache.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.place.join("cache")
    }
}

fn nix(place: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("NIX_STORE_DIR", place.join("nix/store"))
        .env("NIX_STATE_DIR", place.join("nix/var/nix"))
        .env("NIX_LOG_DIR", place.join("nix/var/log/nix"))
        .env("NIX_CONF_DIR", place.join("conf"))
        .env("HOME", place);
    command
}

/// Runs `command` to its end; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

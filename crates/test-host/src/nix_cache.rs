//! A store of Nix that is there no more, and the binary cache that the real Nix made of it.

use std::fs;
use std::path::PathBuf;

use super::{Artifact, NixHost};

/// The cache, and the store to fetch into, which is empty and without Nix.
#[derive(Debug)]
pub struct NixCache {
    host: NixHost,
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
        let host = NixHost::of(place);
        let added = artifacts.iter().map(|artifact| {
            let added = host.run("nix-store", ["--add".as_ref(), artifact.path.as_os_str()]);
            let path = PathBuf::from(added.trim());
            host.put_into_cache(&path, compression);
            Artifact { path, ..artifact.clone() }
        });
        let artifacts = added.collect();
        host.lose_store("gone");
        fs::create_dir_all(host.path("nix/store")).expect("made");
        Self { artifacts, key: host.key(), host }
    }

    /// The store to fetch into.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.host.path("nix/store")
    }

    /// The directory of the cache.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.host.path("cache")
    }
}

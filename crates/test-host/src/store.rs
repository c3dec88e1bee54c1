//! A store root and what is put into it. Hashes are those of `nix-artifacts`, whose own tests hold them against Nix's.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use nix_artifacts::{StoreRoots, hash_store_path};
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

/// A directory that store paths are made in.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// A store path and its hash.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// A directory in the store.
    pub path: PathBuf,
    /// In SRI form.
    pub hash: String,
}

impl Store {
    /// Creates the directory `root`.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    #[must_use]
    pub fn create(root: PathBuf) -> Self {
        fs::create_dir(&root).expect("the store can be created");
        Self { root }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes an artifact that runs `guest` with 32 MiB and one interface, and with what the object `more` says.
    ///
    /// # Panics
    ///
    /// Where there is one of that name already.
    #[must_use]
    pub fn add(&self, name: &str, guest: &TinyGuest, more: &Value) -> Artifact {
        let mut config = json!({ "memory": { "size": 32 << 20 }, "payload": {}, "net": [{}] });
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        let path = self.root.join(name);
        fs::create_dir(&path).expect("the name is free");
        fs::write(path.join("vmlinux"), guest.elf()).expect("the kernel can be written");
        fs::write(path.join("vm-config.json"), config.to_string()).expect("the description can be written");
        self.hashed(path)
    }

    /// The store path at `path` with its hash as it is now.
    ///
    /// # Panics
    ///
    /// Where it cannot be hashed.
    #[must_use]
    pub fn hashed(&self, path: PathBuf) -> Artifact {
        let roots = StoreRoots::open(std::slice::from_ref(&self.root)).expect("the store can be opened");
        let verified = hash_store_path(&roots, &path, &mut |_| ControlFlow::Continue(()))
            .expect("the store path can be hashed");
        Artifact { hash: verified.hash.to_string(), path }
    }
}

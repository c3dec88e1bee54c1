//! What the tests are given: the programs and the images, by environment variables.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

const WORKER: &str = "PROCURATOR_TEST_WORKER";
const MASTER: &str = "PROCURATOR_TEST_MASTER";
const IMAGES: &str = "PROCURATOR_TEST_IMAGES";

/// The programs of worker and master, and the images.
#[derive(Clone, Debug)]
pub struct Environment {
    pub(crate) worker: PathBuf,
    pub(crate) master: PathBuf,
    images: BTreeMap<String, Image>,
}

/// A store path and its NAR hash in SRI form.
#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    /// Where it is.
    pub store_path: PathBuf,
    /// What Nix says its hash is.
    pub hash: String,
}

impl Environment {
    /// As `cargo xtask vm-test` and `cargo xtask demo` set it up: `PROCURATOR_TEST_WORKER` and
    /// `PROCURATOR_TEST_MASTER` are the programs, `PROCURATOR_TEST_IMAGES` is a JSON file of images by name.
    ///
    /// # Errors
    /// One of them is missing or unreadable.
    pub fn from_variables() -> Result<Self> {
        let variable = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("{name} is not set: run these tests by `cargo xtask vm-test`"))
        };
        let list = variable(IMAGES)?;
        let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let images =
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", list.display()))?;
        Ok(Self { worker: variable(WORKER)?, master: variable(MASTER)?, images })
    }

    /// The worker's program.
    pub fn worker(&self) -> &Path {
        &self.worker
    }

    /// The image of that name; `guest` is the one that runs.
    ///
    /// # Errors
    /// There is none.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.images.get(name).cloned().with_context(|| format!("there is no image {name}"))
    }
}

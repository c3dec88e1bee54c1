//! Through which files of the store a machine's files were reached, and what these files were then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vm_model::FileIdentity;

/// Files of one store path by their paths below it; the store path itself has the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileIdentities(BTreeMap<PathBuf, FileIdentity>);

impl FileIdentities {
    /// What the file at `path`, which is relative to the store path, was.
    pub fn get(&self, path: &Path) -> Option<&FileIdentity> {
        self.0.get(path)
    }

    /// Every file with its path below the store path.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &FileIdentity)> {
        self.0.iter().map(|(path, identity)| (path.as_path(), identity))
    }

    /// How many files these are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every file of `others` is among these, and the same.
    pub fn cover(&self, others: &Self) -> bool {
        others.iter().all(|(path, identity)| self.get(path) == Some(identity))
    }

    pub(crate) fn insert(&mut self, path: PathBuf, identity: FileIdentity) {
        self.0.insert(path, identity);
    }
}

/// The store paths that a machine's files lie in or were reached through, each with the files that were met in it:
/// directories, symbolic links and the files themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail(BTreeMap<PathBuf, FileIdentities>);

impl Trail {
    /// What was met in `store_path`; `None` where the trail does not lead through it.
    pub fn in_path(&self, store_path: &Path) -> Option<&FileIdentities> {
        self.0.get(store_path)
    }

    /// Every store path.
    pub fn store_paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Notes what `path` in `store_path` is; says what is different where it was met before and was another file.
    pub(super) fn note(
        &mut self,
        store_path: &Path,
        path: PathBuf,
        identity: FileIdentity,
    ) -> Result<(), String> {
        let files = self.0.entry(store_path.to_owned()).or_default();
        match files.get(&path).and_then(|known| known.difference(&identity)) {
            Some(difference) => Err(difference),
            None => {
                files.insert(path, identity);
                Ok(())
            }
        }
    }
}

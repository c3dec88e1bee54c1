//! Which store paths were hashed and found to be what they were said to be, so that a boot need not hash again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix_artifacts::PathIdentity;
use serde::{Deserialize, Serialize};

use super::atomic_file::{discard_unfinished, write_versioned};
use super::{ReadError, WriteError, read_versioned};

const VERSION: u32 = 1;
const FILE: &str = "verified.json";

/// Remembered verdicts. Only right ones are remembered: a wrong path is hashed again each time.
#[derive(Debug)]
pub(crate) struct VerifiedPaths {
    file: PathBuf,
    /// Protects the map and, held while writing, the order of writes. Never held while anything is hashed.
    verdicts: Mutex<BTreeMap<PathBuf, Verdict>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    hash: String,
    identity: PathIdentity,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    paths: BTreeMap<PathBuf, Verdict>,
}

impl VerifiedPaths {
    /// The verdicts kept in `state_dir`, and what kept earlier ones from being read.
    pub(crate) fn open(state_dir: &Path) -> (Self, Option<ReadError>) {
        let file = state_dir.join(FILE);
        discard_unfinished(&file);
        let (content, error) = match read_versioned::<Content>(&file, VERSION) {
            Ok(content) => (content.unwrap_or_default(), None),
            // They can be had again by hashing.
            Err(error) => (Content::default(), Some(error)),
        };
        (Self { file, verdicts: Mutex::new(content.paths) }, error)
    }

    /// Whether `path`, still being the object `identity`, was found to have `hash`.
    pub(crate) fn knows(&self, path: &Path, hash: &str, identity: &PathIdentity) -> bool {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(path).is_some_and(|verdict| verdict.hash == hash && verdict.identity == *identity)
    }

    /// Remembers that `path`, being the object `identity`, has `hash`.
    pub(crate) fn remember(&self, path: &Path, hash: &str, identity: PathIdentity) -> Result<(), WriteError> {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.insert(path.to_owned(), Verdict { hash: hash.to_owned(), identity });
        // What is gone from the store would otherwise be remembered for ever.
        verdicts.retain(|path, _| path.symlink_metadata().is_ok());
        write_versioned(&self.file, VERSION, &Content { paths: verdicts.clone() })
    }
}

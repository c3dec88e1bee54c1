//! Which store paths were hashed and found to be what they were said to be, so that a boot need not hash again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix_artifacts::FileIdentities;
use serde::{Deserialize, Serialize};
use vm_model::Timestamp;

use super::atomic_file::{discard_unfinished, write_versioned};
use super::{ReadError, WriteError, read_versioned};

/// Version 1 kept the identity of the store path alone: its verdicts cover no file.
const VERSION: u32 = 2;
const FILE: &str = "verified.json";
/// Verdicts that are kept. They are not held against the store to see whether the paths are still there: one file system
/// that does not answer would keep every VM waiting.
const MOST: usize = 1024;

/// Remembered verdicts. Only right ones are remembered: a wrong path is hashed again each time.
#[derive(Debug)]
pub(crate) struct VerifiedPaths {
    file: PathBuf,
    /// Protects the map and, held while writing, the order of writes. Never held while anything below a store is touched.
    verdicts: Mutex<BTreeMap<PathBuf, Verdict>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    hash: String,
    /// What the path's files were while they were hashed.
    #[serde(default)]
    files: FileIdentities,
    /// When it was asked for last.
    #[serde(default)]
    used: Option<Timestamp>,
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

    /// Whether `path` was found to have `hash` when the files that were `met` in it, and those that lead to them, were what
    /// they are now.
    pub(crate) fn knows(&self, path: &Path, hash: &str, met: &FileIdentities) -> bool {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        match verdicts.get_mut(path) {
            Some(verdict) if verdict.hash == hash && !met.is_empty() && verdict.files.cover(met) => {
                verdict.used = Some(Timestamp::now());
                true
            }
            Some(_) | None => false,
        }
    }

    /// Remembers that `path`, its files being `files`, has `hash`. The verdict that was asked for longest ago goes where
    /// there are too many.
    pub(crate) fn remember(&self, path: &Path, hash: &str, files: FileIdentities) -> Result<(), WriteError> {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = Verdict { hash: hash.to_owned(), files, used: Some(Timestamp::now()) };
        verdicts.insert(path.to_owned(), verdict);
        while verdicts.len() > MOST {
            let oldest =
                verdicts.iter().min_by_key(|(_, verdict)| verdict.used).map(|(path, _)| path.clone());
            let Some(oldest) = oldest else { break };
            verdicts.remove(&oldest);
        }
        write_versioned(&self.file, VERSION, &Content { paths: verdicts.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;

    use nix_artifacts::{StoreRoots, hash_store_path};

    use super::*;

    fn files(store: &Path) -> FileIdentities {
        let roots = StoreRoots::open(&[store.to_owned()]).expect("opened");
        let path = store.join("image");
        hash_store_path(&roots, &path, &mut |_| ControlFlow::Continue(())).expect("hashed").files
    }

    #[test]
    fn a_verdict_holds_for_the_files_that_were_hashed_and_for_no_others() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = folder.path().join("store");
        fs::create_dir_all(store.join("image")).expect("created");
        fs::write(store.join("image/vmlinux"), "kernel").expect("written");
        let (path, met) = (store.join("image"), files(&store));
        let (verified, _) = VerifiedPaths::open(folder.path());
        verified.remember(&path, "sha256-a=", met.clone()).expect("kept");
        let (verified, problem) = VerifiedPaths::open(folder.path());
        assert!(problem.is_none());
        assert!(verified.knows(&path, "sha256-a=", &met));
        assert!(!verified.knows(&path, "sha256-b=", &met));
        assert!(!verified.knows(&path, "sha256-a=", &FileIdentities::default()), "nothing was looked at");
        // Same size, and the same modification time.
        let modified = fs::metadata(path.join("vmlinux")).expect("stat").modified().expect("a time");
        fs::write(path.join("vmlinux"), "KERNEL").expect("written");
        fs::File::options()
            .write(true)
            .open(path.join("vmlinux"))
            .and_then(|file| file.set_modified(modified))
            .expect("set");
        assert!(!verified.knows(&path, "sha256-a=", &files(&store)), "edited in place");
    }

    #[test]
    fn verdicts_of_an_earlier_worker_cover_no_file_and_the_oldest_ones_go() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = folder.path().join("store");
        fs::create_dir_all(store.join("image")).expect("created");
        let met = files(&store);
        let earlier =
            r#"{"version":1,"paths":{"/nix/store/a":{"hash":"sha256-a=","identity":{"device":[0,1]}}}}"#;
        fs::write(folder.path().join(FILE), earlier).expect("written");
        let (verified, problem) = VerifiedPaths::open(folder.path());
        assert!(problem.is_none(), "{problem:?}");
        assert!(!verified.knows(Path::new("/nix/store/a"), "sha256-a=", &met));
        // Many are there; writing each is no matter of this test.
        {
            let mut verdicts = verified.verdicts.lock().expect("no panic");
            for number in 0..MOST {
                let verdict = Verdict {
                    hash: "sha256-a=".to_owned(),
                    files: met.clone(),
                    used: Some(Timestamp::from_millis(number as u64)),
                };
                verdicts.insert(format!("/nix/store/{number}").into(), verdict);
            }
        }
        verified.remember(&store.join("image"), "sha256-a=", met.clone()).expect("kept");
        assert!(!verified.knows(Path::new("/nix/store/0"), "sha256-a=", &met));
        assert!(verified.knows(Path::new("/nix/store/1023"), "sha256-a=", &met));
        assert!(verified.knows(&store.join("image"), "sha256-a=", &met));
    }
}

//! Comparing a store path with the hash that was promised for it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;
use vm_model::NarHash;

use super::feed::Feed;
use super::flat::file_with_hash;
use super::tree::{Tree, hash_tree};
use super::{NarError, NarProgress};
use crate::store::{FileIdentities, StorePathError, StoreRoots, identify};

/// A store path whose content has the hash that was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The hash.
    pub hash: NarHash,
    /// What its files were before and after they were hashed: what the verdict may be remembered under. Those that were
    /// asked for, and of the others at least the first thousand.
    pub files: FileIdentities,
}

/// A store path that a machine's files were opened in.
#[derive(Debug)]
pub struct LoadedPath<'path> {
    /// The store path.
    pub store_path: &'path Path,
    /// What the machine's files, and what leads to them, were when they were opened.
    pub met: &'path FileIdentities,
    /// Which of its files are wanted elsewhere, too.
    pub feeds: Vec<Feed>,
}

/// Why a store path is not known to have the hash that was promised.
#[derive(Debug, Error)]
pub enum HashError {
    /// The path is no store path.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// Its content could not be hashed.
    #[error("cannot hash store path {store_path:?}")]
    Nar {
        /// The store path.
        store_path: PathBuf,
        /// What was in the way.
        #[source]
        source: NarError,
    },
    /// The path's identity could not be read.
    #[error("cannot read the identity of store path {store_path:?}")]
    Identity {
        /// The store path.
        store_path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The path was replaced while it was hashed.
    #[error("store path {store_path:?} was replaced while it was hashed")]
    Replaced {
        /// The store path.
        store_path: PathBuf,
    },
    /// The content is another.
    #[error(
        "store path {store_path:?} has the NAR hash {actual}, but {expected} was promised{}",
        hint(store_path, file.as_deref())
    )]
    Mismatch {
        /// The store path.
        store_path: PathBuf,
        /// What was promised.
        expected: NarHash,
        /// What the content hashes to.
        actual: NarHash,
        /// The file of the store path whose own SHA-256 was promised, if that is how it came.
        file: Option<PathBuf>,
    },
}

/// Hashes the content of `store_path`, which may be a directory, a file or a link.
///
/// Reads everything below the path: seconds for an image of some gibibytes. `progress` is called after every
/// piece and can stop it.
///
/// # Errors
/// If the path is no store path below `roots`, cannot be read, or changes meanwhile.
pub fn hash_store_path(
    roots: &StoreRoots,
    store_path: &Path,
    progress: &mut NarProgress<'_>,
) -> Result<Verified, HashError> {
    hash(roots, store_path, None, Vec::new(), progress)
}

/// Makes sure that the content of `store_path` has the hash `expected`; `progress` as for [`hash_store_path`].
///
/// # Errors
/// [`HashError::Mismatch`] names both hashes and is permanent; see [`hash_store_path`] for the others.
pub fn verify_hash(
    roots: &StoreRoots,
    store_path: &Path,
    expected: &NarHash,
    progress: &mut NarProgress<'_>,
) -> Result<Verified, HashError> {
    let verified = hash_store_path(roots, store_path, progress)?;
    judge(roots, store_path, expected, verified, progress)
}

/// As [`verify_hash`], of a store path in which files were opened before: makes sure that what is hashed is what was
/// opened. Keep the files open: their inodes are not used for others meanwhile.
///
/// # Errors
/// [`NarError::ChangedSinceOpened`] and [`NarError::GoneSinceOpened`] name the file; see [`verify_hash`] for the others.
pub fn verify_loaded(
    roots: &StoreRoots,
    loaded: LoadedPath<'_>,
    expected: &NarHash,
    progress: &mut NarProgress<'_>,
) -> Result<Verified, HashError> {
    let LoadedPath { store_path, met, feeds } = loaded;
    let verified = hash(roots, store_path, Some(met), feeds, progress)?;
    judge(roots, store_path, expected, verified, progress)
}

fn hash(
    roots: &StoreRoots,
    store_path: &Path,
    expected: Option<&FileIdentities>,
    feeds: Vec<Feed>,
    progress: &mut NarProgress<'_>,
) -> Result<Verified, HashError> {
    let handle = roots.find(store_path)?;
    let directory = roots.get(handle.root).directory();
    let name = handle.name.as_os_str();
    let tree = Tree { directory, name, path: &handle.path, expected, feeds };
    let (hash, files) = hash_tree(tree, progress)
        .map_err(|source| HashError::Nar { store_path: handle.path.clone(), source })?;
    let now = identify(&roots.find(store_path)?.descriptor)
        .map_err(|source| HashError::Identity { store_path: handle.path.clone(), source })?;
    if files.get(Path::new("")) == Some(&now) {
        Ok(Verified { hash, files })
    } else {
        Err(HashError::Replaced { store_path: handle.path.clone() })
    }
}

fn judge(
    roots: &StoreRoots,
    store_path: &Path,
    expected: &NarHash,
    verified: Verified,
    progress: &mut NarProgress<'_>,
) -> Result<Verified, HashError> {
    if verified.hash == *expected {
        return Ok(verified);
    }
    let handle = roots.find(store_path)?;
    let directory = roots.get(handle.root).directory();
    let file = file_with_hash(directory, handle.name.as_os_str(), &handle.path, expected, progress);
    Err(HashError::Mismatch {
        store_path: store_path.to_owned(),
        expected: *expected,
        actual: verified.hash,
        file,
    })
}

/// What follows on a mismatch where the promised hash is that of a file.
fn hint(store_path: &Path, file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| {
        format!(
            ", which is the hash of the file {file:?}; the hash of the store path is wanted: \
             nix path-info --json {}",
            store_path.display()
        )
    })
}

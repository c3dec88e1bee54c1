//! Comparing a store path with the hash that was promised for it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use super::tree::hash_tree;
use super::{NarError, NarHash, NarProgress};
use crate::store::{PathIdentity, StorePathError, StoreRoots};

/// A store path whose content has the hash that was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The hash.
    pub hash: NarHash,
    /// The path's identity, the same before and after hashing: what the verdict may be remembered under.
    pub identity: PathIdentity,
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
    #[error("store path {store_path:?} has the NAR hash {actual}, but {expected} was promised")]
    Mismatch {
        /// The store path.
        store_path: PathBuf,
        /// What was promised.
        expected: NarHash,
        /// What the content hashes to.
        actual: NarHash,
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
    let handle = roots.find(store_path)?;
    let identify = |descriptor: &_| {
        PathIdentity::of(descriptor)
            .map_err(|source| HashError::Identity { store_path: handle.path.clone(), source })
    };
    let before = identify(&handle.descriptor)?;
    let directory = roots.get(handle.root).directory();
    let hash = hash_tree(directory, handle.name.as_os_str(), &handle.path, progress)
        .map_err(|source| HashError::Nar { store_path: handle.path.clone(), source })?;
    if before == identify(&roots.find(store_path)?.descriptor)? {
        Ok(Verified { hash, identity: before })
    } else {
        Err(HashError::Replaced { store_path: handle.path.clone() })
    }
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
    if verified.hash == *expected {
        Ok(verified)
    } else {
        Err(HashError::Mismatch {
            store_path: store_path.to_owned(),
            expected: *expected,
            actual: verified.hash,
        })
    }
}

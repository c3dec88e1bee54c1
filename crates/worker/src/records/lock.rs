//! The lock that keeps a state directory to one worker.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

const FILE: &str = "worker.lock";

/// Why the state directory is not ours.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    #[error("another worker uses it: {} is locked; stop that worker or choose another directory", path.display())]
    Held { path: PathBuf },
    #[error("cannot lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A held lock. It ends with this value, and with the process however that ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    /// Close-on-exec, as all files of the standard library: a child must not keep the lock.
    _file: File,
}

impl StateLock {
    /// Takes the lock of `state_dir`.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(FILE);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(|source| LockError::Io { path: path.clone(), source })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held { path }),
            Err(error) => Err(LockError::Io { path, source: error.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = StateLock::take(directory.path()).expect("free");
        let error = StateLock::take(directory.path()).expect_err("held");
        assert!(error.to_string().starts_with("another worker uses it"), "{error}");
        drop(held);
        StateLock::take(directory.path()).expect("free again");
    }
}

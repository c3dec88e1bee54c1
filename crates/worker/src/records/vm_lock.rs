//! The lock of one VM: held by the process that runs it, from before its disks are opened until nothing of its machine can
//! change them any more.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

const LOCK: &str = "lock";
const CONSOLE: &str = "console";

/// Why a VM cannot be run by us.
#[derive(Debug, Error)]
pub(crate) enum VmLockError {
    /// Its lock is taken.
    #[error(
        "the VM runs already, or its last machine has not let go of its disks: a process of this host holds the lock {}",
        path.display()
    )]
    Held {
        /// The lock.
        path: PathBuf,
    },
    /// It cannot be taken.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// Takes the lock of the VM whose directory is `directory`. It is bound to the open file: whoever holds the descriptor, or a
/// duplicate that was sent to another process, holds the lock.
pub(crate) fn lock_vm(directory: &Path) -> Result<OwnedFd, VmLockError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| VmLockError::Io { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(VmLockError::Held { path }),
        Err(error) => Err(VmLockError::Io { path, source: error.into() }),
    }
}

/// Opens the directory for what the guest of the VM in `directory` writes, made where it does not exist.
pub(crate) fn open_console(directory: &Path) -> io::Result<OwnedFd> {
    let path = console_directory(directory);
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    File::open(path).map(OwnedFd::from)
}

/// Where the console of the VM in `directory` lies.
pub(crate) fn console_directory(directory: &Path) -> PathBuf {
    directory.join(CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_one_process_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = lock_vm(directory.path()).expect("free");
        let sent = held.try_clone().expect("descriptors duplicate");
        drop(held);
        let error = lock_vm(directory.path()).expect_err("held by the duplicate");
        assert!(error.to_string().starts_with("the VM runs already"), "{error}");
        drop(sent);
        lock_vm(directory.path()).expect("free again");
    }
}

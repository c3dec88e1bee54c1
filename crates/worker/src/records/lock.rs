//! The lock that keeps a state directory to one worker.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

const FILE: &str = "worker.lock";

/// Why the state directory is not ours.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    #[error("another worker uses it: {} is locked{holder}", path.display())]
    Held { path: PathBuf, holder: Holder },
    #[error("cannot lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Who holds a lock that cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Not known.
    Unknown,
    /// A process that runs.
    Alive { pid: u32 },
    /// A process that was ended, and that the kernel cannot let go of.
    Ended { pid: u32 },
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => formatter.write_str("; stop that worker or choose another directory"),
            Self::Alive { pid } => {
                write!(formatter, " by process {pid}; stop that worker or choose another directory")
            }
            Self::Ended { pid } => write!(
                formatter,
                " by process {pid}, which was ended and is still there, because a disk that it waits for does not answer; it goes as \
                 soon as that does (its threads: /proc/{pid}/task)"
            ),
        }
    }
}

impl Holder {
    /// Who holds the lock on `file`, which may have been let go meanwhile. Some file systems number files otherwise than the list of
    /// locks does: nobody is known there.
    fn of(file: &File) -> Self {
        let (Ok(found), Ok(locks)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
            return Self::Unknown;
        };
        let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
        let place = format!("{major:02x}:{minor:02x}:{}", found.ino());
        let Some(pid) = holder_among(&locks, &place) else { return Self::Unknown };
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // What follows the name, which may hold anything (proc_pid_stat(5)).
        let state = state.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
        match state {
            Some('Z' | 'X') => Self::Ended { pid },
            Some(_) | None => Self::Alive { pid },
        }
    }
}

/// The process that holds the lock on the file at `place` among `locks`, the content of `/proc/locks` (proc_locks(5)).
fn holder_among(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|field| *field == place)?;
        fields.get(at.checked_sub(1)?)?.parse().ok()
    })
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
            Err(Errno::WOULDBLOCK) => Err(LockError::Held { path, holder: Holder::of(&file) }),
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
        let told = error.to_string();
        assert!(told.starts_with("another worker uses it") && told.contains("; stop that worker"), "{told}");
        drop(held);
        StateLock::take(directory.path()).expect("free again");
    }

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 700 00:19:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 811 fe:00:52 0 EOF\n2: -> FLOCK  \
                     ADVISORY  WRITE 900 fe:00:52 0 EOF\n";
        assert_eq!(holder_among(locks, "fe:00:52"), Some(811));
        assert_eq!(holder_among(locks, "fe:00:5"), None);
        assert!(Holder::Ended { pid: 811 }.to_string().contains("process 811, which was ended"));
    }
}

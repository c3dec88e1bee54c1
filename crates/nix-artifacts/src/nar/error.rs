//! Why a store path cannot be hashed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a path has no archive.
#[derive(Debug, Error)]
pub enum NarError {
    /// A file is of a kind that an archive cannot hold.
    #[error(
        "cannot hash {path:?}: it is {found}; regular files, directories and symbolic links are accepted"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file changed while it was read.
    #[error("cannot hash {path:?}: it changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file is another one than the one that a machine has open, or was changed since.
    #[error("cannot verify {path:?}: it was changed after it was opened for the machine: {difference}")]
    ChangedSinceOpened {
        /// The file.
        path: PathBuf,
        /// What is different about it, in words.
        difference: String,
    },
    /// A file that a machine has open is not there any more.
    #[error("cannot verify {path:?}: it was there when it was opened for the machine, and is there no more")]
    GoneSinceOpened {
        /// The file.
        path: PathBuf,
    },
    /// Directories lie too deep inside one another.
    #[error("cannot hash {path:?}: directories more than {limit} deep are not accepted")]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// Directories accepted inside one another.
        limit: usize,
    },
    /// A directory has too many entries.
    #[error("cannot hash {path:?}: a directory of more than {limit} entries is not accepted")]
    TooManyEntries {
        /// The directory.
        path: PathBuf,
        /// Entries accepted.
        limit: usize,
    },
    /// A file could not be opened or read.
    #[error("cannot read {path:?} to hash it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The caller's progress function said to stop.
    #[error("hashing {path:?} was stopped")]
    Stopped {
        /// The file that was being hashed.
        path: PathBuf,
    },
}

//! What goes wrong with a console's files.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a console could not be read from its files, or written to them.
#[derive(Debug, Error)]
pub enum ConsoleFilesError {
    /// The directory is there and cannot be opened.
    #[error("cannot open the console directory {}", directory.display())]
    Open {
        /// Which directory.
        directory: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The names or the sizes of its files cannot be read.
    #[error("cannot list the console directory")]
    List(#[source] io::Error),
    /// Something failed on one file.
    #[error("cannot {action} the console file {name}")]
    File {
        /// What failed.
        action: FileAction,
        /// The file's name in the directory.
        name: String,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// Whatever number was tried, something in the directory has it.
    #[error("the console directory is full of names that are no console's: no boot can be numbered")]
    NoNumber,
    /// The boot never began, or its files were removed because newer boots followed.
    #[error("the console directory holds no boot {0}")]
    NoSuchBoot(u32),
    /// Files were removed each time between listing and reading them.
    #[error("the console files of boot {0} change faster than they can be read")]
    Changing(u32),
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAction {
    /// Creating it.
    Create,
    /// Opening it to read.
    Open,
    /// Reading it.
    Read,
    /// Appending to it.
    Append,
    /// Removing it.
    Remove,
}

impl fmt::Display for FileAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Append => "append to",
            Self::Remove => "remove",
        })
    }
}

impl ConsoleFilesError {
    pub(crate) fn file(action: FileAction, name: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::File { action, name: name.to_string(), source: source.into() }
    }

    /// What the host's kernel said, where it was asked.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Open { source, .. } | Self::List(source) | Self::File { source, .. } => Some(source.kind()),
            Self::NoNumber | Self::NoSuchBoot(_) | Self::Changing(_) => None,
        }
    }
}

//! Why a root, a store path or a file below it could not be opened.

use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

/// Why the store roots are unusable.
#[derive(Debug, Error)]
pub enum RootError {
    /// The path of a root is relative, or has `.` or `..` in it.
    #[error("store root {path:?}: an absolute path without '.' and '..' is accepted")]
    NotAbsolute {
        /// The root as configured.
        path: PathBuf,
    },
    /// A root could not be opened as a directory.
    #[error("cannot open store root {path:?} as a directory")]
    Open {
        /// The root as configured.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// Why a path is no usable store path.
#[derive(Debug, Error)]
pub enum StorePathError {
    /// The path does not lie directly below a configured root.
    #[error("{path:?} is no store path: accepted is one component directly below {roots}")]
    NotBelowRoot {
        /// The path as given.
        path: PathBuf,
        /// The configured roots, for display.
        roots: String,
    },
    /// The last component breaks the grammar.
    #[error("{path:?} is no store path: below {root:?}, accepted is {accepted}")]
    Name {
        /// The path as given.
        path: PathBuf,
        /// The root it lies below.
        root: PathBuf,
        /// The grammar.
        accepted: &'static str,
    },
    /// Something else than a directory stands there.
    #[error("{path:?} is {found}; an artifact's store path is a directory")]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Nothing stands there, or it cannot be opened.
    #[error("cannot open store path {path:?}")]
    Open {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// Why a path did not lead to a readable regular file.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// Nothing is there.
    #[error("{path:?} does not exist")]
    Missing {
        /// The first component that is missing.
        path: PathBuf,
        /// Whether that is a whole store path.
        is_store_path: bool,
    },
    /// A link leads to nothing.
    #[error("{link:?} is a dangling link: its target {target:?} leads to {missing:?}, which does not exist")]
    DanglingLink {
        /// The last link that was followed.
        link: PathBuf,
        /// What it says.
        target: PathBuf,
        /// What is missing.
        missing: PathBuf,
        /// Whether that is a whole store path.
        is_store_path: bool,
    },
    /// A link leads out of every configured root.
    #[error("{link:?} is a link to {target:?}, which is outside the configured store roots {roots}")]
    LinkOutside {
        /// The link.
        link: PathBuf,
        /// What it says.
        target: PathBuf,
        /// The configured roots, for display.
        roots: String,
    },
    /// The path itself leads out of every configured root.
    #[error("{path:?} is outside the configured store roots {roots}")]
    Outside {
        /// The path as given.
        path: PathBuf,
        /// The configured roots, for display.
        roots: String,
    },
    /// What stands directly below a root is no store path.
    #[error("{path:?} is no store path: accepted is {accepted}")]
    NotAStorePath {
        /// The component below the root.
        path: PathBuf,
        /// The grammar.
        accepted: &'static str,
    },
    /// Links lead in a circle, or on and on.
    #[error("{path:?} leads through more than {limit} links")]
    TooManyLinks {
        /// The path as given.
        path: PathBuf,
        /// The number of links that are followed.
        limit: usize,
    },
    /// The path or a link on the way is too long or has too many components.
    #[error("the path is longer than {limit} bytes; the longest path that Linux takes is accepted")]
    TooLong {
        /// Bytes accepted.
        limit: usize,
    },
    /// A component that should be a directory is something else.
    #[error("{path:?} is {found}, and the path goes on below it")]
    NotADirectory {
        /// The component.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// What the path leads to is no regular file.
    #[error("{path:?} is {found}; a regular file is accepted")]
    NotAFile {
        /// Where the path led.
        path: PathBuf,
        /// What stands there.
        found: &'static str,
    },
    /// The file may not be read.
    #[error("no permission to open {path:?} for reading")]
    Permission {
        /// The component that was refused.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Something was replaced or edited between two looks at it.
    #[error("{path:?} was changed while the machine's files were opened: {difference}")]
    Changed {
        /// What was met twice.
        path: PathBuf,
        /// What is different about it.
        difference: String,
    },
    /// Anything else that the kernel said.
    #[error("cannot open {path:?}")]
    Io {
        /// The component.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

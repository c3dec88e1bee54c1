//! Socket paths that are too long for the kernel, which takes 107 bytes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Bytes of a path that fit into a socket's address (unix(7): 108 with the zero at its end).
const MAX_BYTES: usize = 107;

/// A path that fits into a socket's address.
#[derive(Debug)]
pub(crate) enum SocketPath {
    /// The path itself.
    Plain(PathBuf),
    /// A path by way of the opened directory, which is as good as long as that is open.
    ThroughDirectory { path: PathBuf, _directory: File },
}

impl SocketPath {
    /// A path to what `path` names.
    ///
    /// # Errors
    /// It is too long, and its directory cannot be opened, or the name alone is too long.
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_BYTES {
            return Ok(Self::Plain(path.to_owned()));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
        };
        let directory = File::open(parent)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self::ThroughDirectory { path, _directory: directory })
    }

    /// The path to use.
    pub(crate) fn as_path(&self) -> &Path {
        match self {
            Self::Plain(path) | Self::ThroughDirectory { path, .. } => path,
        }
    }

    /// Whether other programs, which use the path as it is, cannot connect.
    pub(crate) fn is_too_long(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::ThroughDirectory { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_long_path_is_bound_and_connected_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("created");
        let path = deep.join("worker.sock");
        UnixListener::bind(&path).expect_err("the kernel takes no such path");
        let bound = SocketPath::to(&path).expect("its directory is there");
        let _listener = UnixListener::bind(bound.as_path()).expect("bound");
        assert!(bound.is_too_long() && path.exists());
        UnixStream::connect(SocketPath::to(&path).expect("as before").as_path()).expect("connected");
        assert!(!SocketPath::to(Path::new("/run/x")).expect("short").is_too_long());
        SocketPath::to(&deep.join("missing/worker.sock")).expect_err("no directory");
    }
}

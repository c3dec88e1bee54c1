//! Where the probes of one VM find its guest.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use console_log::ConsoleRecorder;
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};

/// What a VM has by which its guest can be asked.
#[derive(Clone, Debug, Default)]
pub struct ProbeTargets {
    /// The guest's address. It is reached from this process' network namespace.
    pub address: Option<Ipv4Addr>,
    /// The directory of its socket device's sockets.
    pub vsock: Option<VsockDirectory>,
    /// Where its console is read.
    pub console: Option<ConsoleTarget>,
}

/// Where a console is read.
#[derive(Clone, Debug)]
pub enum ConsoleTarget {
    /// In this process' memory.
    Memory(Arc<ConsoleRecorder>),
    /// In files, which another process writes.
    Files {
        /// Their directory, which need not be there yet.
        directory: PathBuf,
        /// The newest boot in it before the machine was launched: what earlier guests wrote says nothing of this one.
        /// `None` of a machine that was adopted, whose newest boot is its own.
        after: Option<u32>,
    },
}

/// The directory of one VM's host sockets, open.
///
/// Sockets in it are named through its descriptor: a socket's address takes 107 bytes, and the directory's own path may be
/// longer.
#[derive(Clone, Debug)]
pub struct VsockDirectory(Arc<OwnedFd>);

impl VsockDirectory {
    /// Opens `path`.
    ///
    /// # Errors
    /// It is no directory, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(Arc::new(open(path, flags, Mode::empty())?)))
    }

    /// The path of the socket `name`, short, for as long as this is open. For making it: who connects to it, or changes it,
    /// takes what [`VsockDirectory::socket`] finds.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// The socket `name`, which is no other file. The directory may be that of a process that means harm: a link in its place
    /// would have this process connect to a socket of the host's, with its own rights.
    pub(crate) fn socket(&self, name: &str) -> io::Result<FoundSocket> {
        let found = openat(&self.0, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Socket => Ok(FoundSocket(found)),
            kind => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} among the VM's sockets is no socket, but a {kind:?}"),
            )),
        }
    }
}

/// A socket that was found, whatever takes its place.
#[derive(Debug)]
pub(crate) struct FoundSocket(OwnedFd);

impl FoundSocket {
    /// Its path, for as long as this is open.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Lets everybody connect who can enter its directory.
    pub(crate) fn open_to_all(&self) -> io::Result<()> {
        std::fs::set_permissions(self.path(), PermissionsExt::from_mode(0o666))
    }
}

impl AsFd for VsockDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! Which process listens on a worker's socket, as the kernel tells it: also where that process answers nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::SOCKET_NAME;
use crate::socket_path::SocketPath;

/// The process of the worker whose socket lies in `runtime_dir`, where there is one and the caller may connect to it. Asks it
/// nothing, and does not wait for it.
pub fn find_worker_process(runtime_dir: &Path) -> Option<u32> {
    find_listener(&runtime_dir.join(SOCKET_NAME))
}

/// The process that listens on the socket at `path`.
pub(crate) fn find_listener(path: &Path) -> Option<u32> {
    let peer = socket_peercred(dial(path).ok()?).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// Connects to who listens on the socket at `path`. Does not wait for who listens and takes nobody: that is an error of the kind
/// [`io::ErrorKind::WouldBlock`].
pub(crate) fn dial(path: &Path) -> io::Result<OwnedFd> {
    let reachable = SocketPath::to(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(reachable.as_path())?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(find_worker_process(directory.path()), None);
        let _listener = UnixListener::bind(directory.path().join(SOCKET_NAME)).expect("bound");
        assert_eq!(find_worker_process(directory.path()), Some(std::process::id()));
    }
}

//! Who is at the other end of a socket, by what the kernel says.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::{Pid, Uid};

/// Whoever connected, or has listened, at the other end of a socket (`SO_PEERCRED` of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Its process; `None` where that has no number in this process' PID namespace, as a worker has none in a host process'.
    pub(crate) pid: Option<Pid>,
    /// The user that it was.
    pub(crate) uid: Uid,
}

impl Credentials {
    /// Those of the other end of `socket`.
    ///
    /// # Errors
    /// The kernel does not tell: it is no connected Unix socket.
    #[expect(unsafe_code, reason = "rustix takes every process for one that has a number here")]
    pub(crate) fn of_peer(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut told = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let size = mem::size_of_val(&told);
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the kernel writes no more than `length` bytes to `told`, which is as long and for which any bytes are a value.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut told).cast(),
                &raw mut length,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pid: Pid::from_raw(told.pid), uid: Uid::from_raw(told.uid) })
    }

    /// The number of its process.
    ///
    /// # Errors
    /// It has none here.
    pub(crate) fn pid(&self) -> io::Result<u32> {
        let outside = || io::Error::new(io::ErrorKind::NotFound, "it is in another PID namespace");
        self.pid.map(|pid| pid.as_raw_pid().unsigned_abs()).ok_or_else(outside)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_says_who_is_there() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let peer = Credentials::of_peer(one.as_fd()).expect("told");
        assert_eq!((peer.pid().ok(), peer.uid), (Some(std::process::id()), rustix::process::geteuid()));
        let nobody = Credentials { pid: None, ..peer }.pid().expect_err("it has no number");
        assert_eq!(nobody.to_string(), "it is in another PID namespace");
        let file = File::open("/dev/null").expect("there");
        Credentials::of_peer(file.as_fd()).expect_err("it is no socket");
    }
}

//! The host's side: the socket that the host connects to, those that it listens on, and the one line by which it says
//! which port it wants.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// The name of the socket that the host connects to, in the machine's directory of sockets. Those that guests connect
/// to have `_<port>` after it.
pub const SOCKET_NAME: &str = "vsock.sock";
/// The longest line that asks for a port, `CONNECT 4294967295\n`, and some room.
const LINE_BYTES_MAX: usize = 32;

/// The directory of one machine's sockets, and the one that is listened on.
pub(super) struct HostSockets {
    directory: OwnedFd,
    listener: UnixListener,
    /// The listening socket's inode, so that a socket of another device is not removed.
    inode: u64,
}

impl HostSockets {
    /// Listens in `directory`. A socket that an earlier machine left is replaced.
    pub(super) fn listen(directory: OwnedFd) -> io::Result<Self> {
        match rustix::fs::unlinkat(&directory, SOCKET_NAME, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let listener = UnixListener::bind(path_of(&directory, SOCKET_NAME))?;
        listener.set_nonblocking(true)?;
        // A process that can connect to this socket reaches the guest's services.
        rustix::fs::chmodat(&directory, SOCKET_NAME, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        let inode = rustix::fs::statat(&directory, SOCKET_NAME, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        Ok(Self { directory, listener, inode })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next host program that connects, if there is one.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        let (stream, _address) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }

    /// Connects to the host program that listens for the guest on `port`.
    ///
    /// # Errors
    /// None listens, or its backlog is full.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(path_of(&self.directory, &format!("{SOCKET_NAME}_{port}")))?;
        rustix::net::connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }
}

impl Drop for HostSockets {
    fn drop(&mut self) {
        let found = rustix::fs::statat(&self.directory, SOCKET_NAME, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|status| status.st_ino == self.inode) {
            // What cannot be removed is replaced by the next machine.
            let _ = rustix::fs::unlinkat(&self.directory, SOCKET_NAME, AtFlags::empty());
        }
    }
}

/// A path below a directory that is known by descriptor alone: short, whatever the directory's own path is.
fn path_of(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// A host program that has connected and not said yet which port it wants.
pub(super) struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
}

/// What a connected host program sent.
pub(super) enum Call {
    /// The line is not complete.
    Waiting(Caller),
    /// It asks for this port of the guest.
    For(u32, UnixStream),
    /// It hung up or wrote something else.
    Nonsense,
}

impl Caller {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::with_capacity(LINE_BYTES_MAX) }
    }

    /// Reads on, byte by byte: what follows the line belongs to the stream.
    pub(super) fn listen(mut self) -> Call {
        while self.line.len() < LINE_BYTES_MAX {
            let mut byte = [0];
            match receive(&self.stream, &mut byte) {
                Ok(Received::Bytes(_)) if byte == *b"\n" => {
                    return match wanted_port(&self.line) {
                        Some(port) => Call::For(port, self.stream),
                        None => Call::Nonsense,
                    };
                }
                Ok(Received::Bytes(_)) => self.line.extend_from_slice(&byte),
                Ok(Received::Nothing) => return Call::Waiting(self),
                Ok(Received::End) | Err(_) => return Call::Nonsense,
            }
        }
        Call::Nonsense
    }
}

/// The port in `CONNECT <port>`, as Firecracker reads it: the word in any case, and blanks around the number.
fn wanted_port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (word, port) = (words.next()?, words.next()?);
    let complete = words.next().is_none() && word.eq_ignore_ascii_case("connect");
    port.parse().ok().filter(|port| complete && *port != u32::MAX)
}

/// The result of reading from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// No data for now.
    Nothing,
    /// The end of the stream.
    End,
}

/// Reads what is available.
pub(super) fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    loop {
        match rustix::net::recv(stream.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Ok(Received::End),
            Ok((_, count)) => return Ok(Received::Bytes(count)),
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes as much of `data` as the stream takes now.
pub(super) fn send(stream: &UnixStream, data: &[u8]) -> io::Result<usize> {
    if data.is_empty() {
        return Ok(0);
    }
    loop {
        match rustix::net::send(stream.as_fd(), data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_line_names_a_port() {
        for (line, port) in [
            ("CONNECT 52", Some(52)),
            ("connect 0", Some(0)),
            ("CONNECT  7\r", Some(7)),
            ("CONNECT 4294967295", None),
            ("CONNECT -1", None),
            ("CONNECT", None),
            ("CONNECT 1 2", None),
            ("HELLO 1", None),
            ("", None),
        ] {
            assert_eq!(wanted_port(line.as_bytes()), port, "{line:?}");
        }
    }

    #[test]
    fn what_follows_the_line_is_left_alone() {
        let (mut host, stream) = UnixStream::pair().unwrap();
        let caller = Caller::new(stream);
        host.write_all(b"CONN").unwrap();
        let Call::Waiting(caller) = caller.listen() else { panic!("the line is not complete") };
        host.write_all(b"ECT 9\nhello").unwrap();
        let Call::For(9, stream) = caller.listen() else { panic!("the line is complete") };
        let mut rest = [0; 16];
        assert_eq!(receive(&stream, &mut rest).unwrap(), Received::Bytes(5));
        assert_eq!(receive(&stream, &mut rest).unwrap(), Received::Nothing);
        host.write_all(&[b'x'; 64]).unwrap();
        assert!(matches!(Caller::new(stream).listen(), Call::Nonsense));
    }

    #[test]
    fn only_the_own_socket_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let first = HostSockets::listen(open()).unwrap();
        let second = HostSockets::listen(open()).unwrap();
        drop(first);
        let path = directory.path().join(SOCKET_NAME);
        UnixStream::connect(&path).unwrap();
        assert!(second.accept().is_some());
        assert!(second.connect(1).is_err());
        drop(second);
        assert!(!path.exists());
    }
}

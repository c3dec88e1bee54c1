//! Connections to a guest's ports through its vsock socket on the host: `CONNECT <port>`, `OK <port>`, then the stream.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// How long a guest may take to answer: one without a driver never does.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is passed on at a time.
const AT_ONCE: usize = 64 << 10;
/// The longest answer: `OK` and a number of the host's.
const LONGEST_ANSWER: usize = 32;

/// Connects to `port` of the guest behind `socket`.
///
/// # Errors
/// Nobody listens on the socket, it is not for this user, or the guest does not take the connection.
pub(crate) fn connect(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = connect_to(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let answer = first_line(&mut stream)?;
    if !answer.starts_with("OK ") {
        return Err(io::Error::new(ErrorKind::ConnectionRefused, format!("it answered {answer:?}")));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Connects to the socket by way of a descriptor: its path may be longer than the kernel takes (107 bytes), and what lies there
/// may be a link that a machine's process made, to lead whoever connects to another socket of the host.
fn connect_to(socket: &Path) -> io::Result<UnixStream> {
    let found = open(socket, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no socket"));
    }
    UnixStream::connect(Path::new("/proc/self/fd").join(found.as_raw_fd().to_string()))
}

/// The line that comes first. What follows it is left in the stream.
fn first_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST_ANSWER {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::Error::new(ErrorKind::ConnectionRefused, "the guest does not listen")),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Connects standard input and output with `port` of the guest behind `socket`, until the guest ends the stream.
pub(crate) fn run(socket: &Path, port: u32) -> Result<()> {
    let place = || format!("port {port} behind {} cannot be connected to", socket.display());
    let mut stream = connect(socket, port).with_context(place)?;
    let mut to_guest = stream.try_clone().context("cannot share the connection")?;
    // Past the buffers of the standard library, which would keep what is to go on at once.
    let mut from = File::from(stdin().as_fd().try_clone_to_owned().context("no standard input")?);
    let mut to = File::from(stdout().as_fd().try_clone_to_owned().context("no standard output")?);
    let sending = move || {
        // A guest that is gone is seen by the other direction.
        let _ = pass_on(&mut from, &mut to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    };
    thread::Builder::new().name("to-guest".to_owned()).spawn(sending).context("cannot start a thread")?;
    match pass_on(&mut stream, &mut to) {
        // Whoever reads has gone.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the connection broke off"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Passes on what comes, as it comes, until the end. `std::io::copy` splices between a socket and a pipe, which holds back
/// what has come.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; AT_ONCE];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(bytes.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A host's end that takes one connection and answers `answer`.
    fn answering(answer: &'static str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        // Longer than a socket's path may be.
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let handle = open(&deep, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("opened");
        let short = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join("vsock.sock");
        let listener = UnixListener::bind(short).expect("bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("connected");
            assert_eq!(first_line(&mut stream).expect("a line"), "CONNECT 22");
            stream.write_all(answer.as_bytes()).expect("answered");
        });
        (directory, deep.join("vsock.sock"))
    }

    #[test]
    fn what_follows_the_answer_is_the_stream() {
        let (_directory, socket) = answering("OK 1024\nSSH-2.0-x\n");
        let mut stream = connect(&socket, 22).expect("connected");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        assert_eq!(text, "SSH-2.0-x\n");
    }

    #[test]
    fn a_guest_that_does_not_listen_is_told_of() {
        for answer in ["", "NO\n", &"x".repeat(99)] {
            let (_directory, socket) = answering(Box::leak(answer.to_owned().into_boxed_str()));
            let problem = connect(&socket, 22).expect_err("refused");
            assert_eq!(problem.kind(), ErrorKind::ConnectionRefused, "{answer}: {problem}");
        }
        let (directory, socket) = answering("");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&socket, &link).expect("linked");
        assert_eq!(connect(&link, 22).expect_err("refused").kind(), ErrorKind::InvalidInput);
        let missing = connect(Path::new("/nonexistent/vsock.sock"), 22).expect_err("there is none");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}

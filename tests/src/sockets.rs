//! Reaching a guest by the sockets of its machine, without a network: as `docs/operations.md` tells users to.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Worker;

/// Guests work on an emulated processor before they answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// More than any `OK <port>` has.
const LONGEST_ANSWER: usize = 32;

/// A stream to a port that the guest of `id` listens at.
///
/// # Errors
/// The machine has no such socket, or nobody in it listens there (yet).
pub fn connect_to_guest(worker: &Worker, id: &str, port: u32) -> Result<UnixStream> {
    let path = worker.vm_directory(id).join("vsock.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE)).context("cannot set a deadline")?;
    writeln!(stream, "CONNECT {port}").with_context(|| format!("cannot ask for port {port} of {id}"))?;
    let answer = read_line(&mut stream).with_context(|| format!("port {port} of {id} does not answer"))?;
    // The number that follows is the host's own.
    if !answer.starts_with("OK ") {
        bail!("port {port} of {id} answers {answer:?}");
    }
    Ok(stream)
}

/// Listens for the guest of `id`, which connects to `port` of its host.
///
/// # Errors
/// The socket is taken, or the VM is gone.
pub fn listen_for_guest(worker: &Worker, id: &str, port: u32) -> Result<UnixListener> {
    let path = worker.vm_directory(id).join(format!("vsock.sock_{port}"));
    UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))
}

/// Up to the line feed and no further: what follows is the stream.
fn read_line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("it ends within its first line")?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [_] if line.len() == LONGEST_ANSWER => bail!("its first line is too long: {line:?}"),
            [byte] => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_first_line_is_left_in_the_stream() {
        let mut stream = &b"OK 1073741824\nmore"[..];
        assert_eq!(read_line(&mut stream).expect("a line"), "OK 1073741824");
        assert_eq!(stream, b"more");
        assert!(read_line(&mut stream).is_err());
    }
}

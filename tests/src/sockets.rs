//! Reaching a guest by the sockets of its machine, without a network: as `docs/operations.md` tells users to.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Guests work on an emulated processor before they answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// More than any `OK <port>` has, and any greeting.
const LONGEST_ANSWER: usize = 255;

/// A stream to a port that the guest listens at whose machine has its sockets in `vm_directory`.
///
/// # Errors
/// The machine has no such socket, or nobody in it listens there (yet).
pub fn connect_to_guest(vm_directory: &Path, port: u32) -> Result<UnixStream> {
    let path = vm_directory.join("sockets/vsock.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE)).context("cannot set a deadline")?;
    let of = || format!("port {port} of {}", path.display());
    writeln!(stream, "CONNECT {port}").with_context(|| format!("cannot ask for {}", of()))?;
    let answer = read_line(&mut stream).with_context(|| format!("{} does not answer", of()))?;
    // The number that follows is the host's own.
    if !answer.starts_with("OK ") {
        bail!("{} answers {answer:?}", of());
    }
    Ok(stream)
}

/// The first line that the guest sends on a stream, as servers do that greet, without its end.
///
/// # Errors
/// None comes in time, or it is too long for a greeting.
pub fn greeting_of(stream: &mut UnixStream) -> Result<String> {
    let line = read_line(stream).context("the guest does not greet")?;
    Ok(line.trim_end_matches('\r').to_owned())
}

/// Listens for that guest, which connects to `port` of its host.
///
/// # Errors
/// The socket is taken, or the VM is gone.
pub fn listen_for_guest(vm_directory: &Path, port: u32) -> Result<UnixListener> {
    let path = vm_directory.join(format!("sockets/vsock.sock_{port}"));
    let place = || format!("cannot listen at {}", path.display());
    let listener = UnixListener::bind(&path).with_context(place)?;
    // The VM's process, which connects for its guest, is another user's.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).with_context(place)?;
    Ok(listener)
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

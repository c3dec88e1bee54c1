//! Whether the guest accepts a connection of its socket device: the host's side of the line `CONNECT <port>`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::finding::ProbeFailure;
use crate::targets::VsockDirectory;

/// The socket that host programs connect to.
const SOCKET: &str = "vsock.sock";
/// The longest answer, `OK 4294967295\n`.
const ANSWER_MAX: usize = 14;

/// Connects to `port` of the guest and closes the connection.
pub(super) async fn connect(directory: &VsockDirectory, port: u32) -> Result<(), ProbeFailure> {
    let failed = |source| ProbeFailure::Connect { target: format!("vsock port {port}"), source };
    let socket = directory.socket(SOCKET).map_err(failed)?;
    let mut stream = UnixStream::connect(socket.path()).await.map_err(failed)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::with_capacity(ANSWER_MAX);
    while answer.len() < ANSWER_MAX && !answer.ends_with(b"\n") {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if is_refusal(&error) => return Err(ProbeFailure::VsockRefused { port }),
            Err(error) => return Err(failed(error)),
        }
    }
    if answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
        Ok(())
    } else {
        Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the answer is not \"OK\" and a port")))
    }
}

/// The device closes a connection that the guest does not accept.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use vm_model::error_chain;

    use super::*;

    /// A directory whose path is longer than a socket's address, with a device in it that gives `answer` to one caller.
    async fn answered(answer: Option<&'static str>) -> Result<(), String> {
        let home = TempDir::new().expect("a directory");
        let path: PathBuf = home.path().join("d".repeat(200));
        std::fs::create_dir(&path).expect("made");
        let directory = VsockDirectory::open(&path).expect("open");
        let listener = UnixListener::bind(directory.path_of(SOCKET)).expect("listening");
        let device = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                line.push(stream.read_u8().await.expect("a whole line"));
            }
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
            line
        });
        let result = connect(&directory, 4_000_000_000).await.map_err(|failure| error_chain(&failure));
        assert_eq!(device.await.expect("answered"), b"CONNECT 4000000000\n");
        result
    }

    #[tokio::test]
    async fn only_what_the_guest_accepts_is_a_success() {
        assert_eq!(answered(Some("OK 1073741824\n")).await, Ok(()));
        assert_eq!(
            answered(None).await,
            Err("the guest refused a connection to vsock port 4000000000".to_owned())
        );
        let odd = answered(Some("HELLO THERE WORLD\n")).await.expect_err("no answer of the device");
        assert!(odd.contains("the answer is not"), "{odd}");
    }

    #[tokio::test]
    async fn a_vm_without_a_device_refuses() {
        let home = TempDir::new().expect("a directory");
        let directory = VsockDirectory::open(home.path()).expect("open");
        let failure = connect(&directory, 22).await.expect_err("there is no socket");
        assert_eq!(failure.to_string(), "cannot connect to vsock port 22");
    }

    #[tokio::test]
    async fn no_link_leads_to_a_socket_elsewhere() {
        let home = TempDir::new().expect("a directory");
        let elsewhere = home.path().join("elsewhere");
        let victim = UnixListener::bind(&elsewhere).expect("listening");
        let path = home.path().join("sockets");
        std::fs::create_dir(&path).expect("made");
        std::os::unix::fs::symlink(&elsewhere, path.join(SOCKET)).expect("linked");
        let directory = VsockDirectory::open(&path).expect("open");
        let refused = connect(&directory, 22).await.expect_err("refused");
        assert!(error_chain(&refused).contains("is no socket, but a Symlink"), "{}", error_chain(&refused));
        victim.into_std().expect("no task has it").accept().expect_err("nobody came");
    }
}

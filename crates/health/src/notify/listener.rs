//! The socket on which the systemd of one guest reports: `vsock.sock_<port>` among the VM's host sockets.
//!
//! A connection carries one message and ends it. Messages are read one after the other, so that they keep their order and a
//! guest that sends many, long or unfinished ones costs little and delays itself alone.

use std::io;
use std::time::Duration;

use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};
use vm_model::SYSTEMD_NOTIFY_PORT;

use super::message::{MESSAGE_BYTES_MAX, NotifyMessage};
use crate::targets::VsockDirectory;

/// How long a message may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// So many messages are read in a [`WINDOW`] at most.
const MESSAGES_A_WINDOW: u32 = 64;
/// The time in which messages are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// How long to wait where the host has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a guest's reports cannot be listened for.
#[derive(Debug, Error)]
pub enum NotifyError {
    /// What an earlier listener left is in the way.
    #[error("cannot remove the old socket {name:?} among the VM's host sockets")]
    Remove {
        /// The socket's name in its directory.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {name:?} among the VM's host sockets")]
    Listen {
        /// The socket's name in its directory.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Listens for one guest's reports until it is dropped.
#[derive(Debug)]
pub struct NotifyListener {
    directory: VsockDirectory,
    name: String,
    listener: UnixListener,
    /// The socket's inode, so that another listener's is not removed.
    inode: u64,
    window: Instant,
    messages: u32,
}

impl NotifyListener {
    /// Listens in `directory`. The guest finds nobody before this; a socket that an earlier worker left is replaced.
    ///
    /// # Errors
    /// There is something else of that name, or the socket cannot be made.
    pub fn bind(directory: &VsockDirectory) -> Result<Self, NotifyError> {
        let name = format!("vsock.sock_{SYSTEMD_NOTIFY_PORT}");
        match unlinkat(directory, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(NotifyError::Remove { name, source: source.into() }),
        }
        let bound = UnixListener::bind(directory.path_of(&name)).and_then(|listener| {
            let status = statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            // The machine's process, which connects, is another user's.
            directory.socket(&name)?.open_to_all()?;
            Ok((listener, status.st_ino))
        });
        match bound {
            Ok((listener, inode)) => Ok(Self {
                directory: directory.clone(),
                name,
                listener,
                inode,
                window: Instant::now(),
                messages: 0,
            }),
            Err(source) => Err(NotifyError::Listen { name, source }),
        }
    }

    /// The next message. One that takes too long is left aside. Cancel-safe but for the message that is being read.
    pub async fn next(&mut self) -> NotifyMessage {
        loop {
            self.keep_pace().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(message) = read(stream).await {
                        return message;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a report of a guest's systemd");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits where the guest has sent as much as it may for now.
    async fn keep_pace(&mut self) {
        if self.messages >= MESSAGES_A_WINDOW {
            sleep_until(self.window + WINDOW).await;
        }
        if self.window.elapsed() >= WINDOW {
            (self.window, self.messages) = (Instant::now(), 0);
        }
        self.messages += 1;
    }
}

impl Drop for NotifyListener {
    fn drop(&mut self) {
        let found = statat(&self.directory, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|status| status.st_ino == self.inode) {
            // What cannot be removed is replaced by the next listener.
            let _ = unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Reads one message to its end; `None` where that does not come in time.
async fn read(stream: UnixStream) -> Option<NotifyMessage> {
    let mut bytes = Vec::new();
    let most = MESSAGE_BYTES_MAX as u64;
    let reading = async { stream.take(most).read_to_end(&mut bytes).await };
    match timeout(MESSAGE_TIMEOUT, reading).await {
        Ok(Ok(_)) => Some(NotifyMessage::parse(&bytes)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a report of a guest's systemd broke off");
            None
        }
        Err(_elapsed) => {
            tracing::debug!("a report of a guest's systemd did not end in time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn directory(home: &TempDir) -> VsockDirectory {
        VsockDirectory::open(home.path()).expect("open")
    }

    async fn connect(home: &Path) -> UnixStream {
        let path = home.join(format!("vsock.sock_{SYSTEMD_NOTIFY_PORT}"));
        UnixStream::connect(path).await.expect("somebody listens")
    }

    async fn send(home: &Path, bytes: &[u8]) {
        let mut stream = connect(home).await;
        let _ = stream.write_all(bytes).await;
    }

    #[tokio::test]
    async fn messages_arrive_in_order() {
        let home = TempDir::new().expect("a directory");
        let mut listener = NotifyListener::bind(&directory(&home)).expect("listening");
        let mut first = connect(home.path()).await;
        send(home.path(), b"STATUS=two").await;
        first.write_all(b"STATUS=").await.expect("written");
        first.write_all(b"one").await.expect("written");
        drop(first);
        for expected in ["one", "two"] {
            assert_eq!(listener.next().await.status.as_deref(), Some(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_an_end_delays_the_next_and_no_more() {
        let home = TempDir::new().expect("a directory");
        let mut listener = NotifyListener::bind(&directory(&home)).expect("listening");
        let mut unfinished = connect(home.path()).await;
        unfinished.write_all(b"READY=1\n").await.expect("written");
        send(home.path(), b"STATUS=next").await;
        let message = listener.next().await;
        assert_eq!((message.ready, message.status.as_deref()), (false, Some("next")));
    }

    #[tokio::test(start_paused = true)]
    async fn long_messages_are_cut_and_many_are_slowed() {
        let home = TempDir::new().expect("a directory");
        let mut listener = NotifyListener::bind(&directory(&home)).expect("listening");
        let sending = tokio::spawn({
            let home = home.path().to_owned();
            async move { send(&home, &[b"READY=1\n".as_slice(), &[b'x'; 1 << 20]].concat()).await }
        });
        assert!(listener.next().await.ready);
        sending.await.expect("the connection was closed");
        let begun = Instant::now();
        for _ in 0..MESSAGES_A_WINDOW * 2 {
            send(home.path(), b"").await;
            listener.next().await;
        }
        assert!(begun.elapsed() >= WINDOW, "in the runtime's time, which passes where all wait");
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_ones_own_removed() {
        let home = TempDir::new().expect("a directory");
        let old = NotifyListener::bind(&directory(&home)).expect("listening");
        let mut new = NotifyListener::bind(&directory(&home)).expect("listening in its place");
        drop(old);
        send(home.path(), b"READY=1").await;
        assert!(new.next().await.ready, "the old one has removed only its own");
        drop(new);
        assert_eq!(std::fs::read_dir(home.path()).expect("its entries").count(), 0);
    }
}

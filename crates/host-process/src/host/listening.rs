//! Where later workers connect.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use fail_points::{FailPoint, pass};
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::hosted::Hosted;
use super::peer::{Origin, converse};
use crate::awaited::watch;
use crate::credentials::Credentials;
use crate::wire::{Connection, FromHost};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8;
/// How long to wait after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a listening socket is bound.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` where this process may not change it.
    directory: Option<OwnedFd>,
    name: String,
}

/// Why a listener is not taken.
#[derive(Debug, Error)]
pub(super) enum ListenerError {
    #[error("{name:?} is no name of a socket in its directory")]
    Name { name: String },
    #[error("cannot listen")]
    Listen(#[source] io::Error),
}

impl Place {
    /// The entry `name` of `directory`.
    pub(super) fn new(directory: Option<OwnedFd>, name: String) -> Result<Self, ListenerError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(ListenerError::Name { name });
        }
        Ok(Self { directory, name })
    }

    /// Removes the entry, so that nobody looks for this process there any more.
    pub(super) fn remove(&self) {
        let Some(directory) = &self.directory else { return };
        match unlinkat(directory, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                tracing::warn!(name = self.name, %error, "the socket for later workers stays behind");
            }
        }
    }
}

/// Accepts connections on `socket`, which is bound, from now on.
///
/// This process listens itself, although another could do that for it: who connects is told by the kernel who did.
pub(super) fn listen(host: &Rc<Hosted>, socket: OwnedFd) -> Result<(), ListenerError> {
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| ListenerError::Listen(errno.into()))?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| ListenerError::Listen(errno.into()))?;
    let socket = watch(socket, Interest::READABLE).map_err(ListenerError::Listen)?;
    pass(FailPoint::HostListening);
    spawn_local(accept_all(host.clone(), socket));
    Ok(())
}

async fn accept_all(host: Rc<Hosted>, listener: AsyncFd<OwnedFd>) {
    loop {
        match accept(&listener).await {
            Ok(socket) => admit(&host, socket),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    loop {
        let mut ready = listener.readable().await?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(listener.get_ref(), flags) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            accepted => return Ok(accepted?),
        }
    }
}

/// Speaks with whoever connected, if they may and there is a slot.
fn admit(host: &Rc<Hosted>, socket: OwnedFd) {
    let own = rustix::process::geteuid();
    let refused = match Credentials::of_peer(socket.as_fd()) {
        Ok(peer) if peer.uid == own || peer.uid.is_root() => None,
        Ok(peer) => Some(format!("user {} is neither this process' nor root", peer.uid.as_raw())),
        Err(error) => Some(format!("the kernel does not tell whose it is: {error}")),
    };
    let slot = refused
        .map_or_else(|| host.free_slot().ok_or("as many workers are connected as may be".to_owned()), Err);
    match slot {
        Ok(slot) => drop(spawn_local(converse(host.clone(), slot, socket, Origin::Listener))),
        Err(reason) => {
            tracing::warn!(reason, "a connection is refused");
            if let Ok(connection) = Connection::new(socket) {
                let _ = connection.try_send(FromHost::Refused { reason });
            }
        }
    }
}

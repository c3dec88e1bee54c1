//! The connection of a conversation, while there is one.

use std::io;
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::client::believable::believable;
use crate::client::directory::{Dialled, SocketDirectory};
use crate::client::handshake::{HandshakeError, handshake};
use crate::client::looking::HELLO_PATIENCE;
use crate::credentials::Credentials;
use crate::wire::{Connection, ConnectionError, FromHost, Welcome};

/// How long to wait before the first try to connect again, and at most before each after it.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// More messages than wait in a socket: the kernel's bound on their bytes is reached before.
const WAITING_MAX: usize = 512;

/// A connection, or what is to become of it.
#[derive(Debug)]
pub(in crate::client) struct Link(State);

#[derive(Debug)]
enum State {
    Up(Connection),
    Down { retry_at: Instant, pause: Duration },
    Closed,
}

/// Why a process was not reached at its socket.
#[derive(Debug, Error)]
pub(in crate::client) enum ReachError {
    #[error("cannot {operation}")]
    System {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("nobody listens on its socket any more")]
    Abandoned,
    #[error("process {actual} listens on the socket of process {expected}")]
    OtherProcess { expected: u32, actual: u32 },
    #[error("no conversation came to be")]
    Handshake(#[source] HandshakeError),
}

impl ReachError {
    /// Whether the process is there and has not answered in time.
    pub(in crate::client) fn is_silence(&self) -> bool {
        matches!(self, Self::Handshake(HandshakeError::Silent { .. }))
    }
}

impl Link {
    pub(in crate::client) fn up(connection: Connection) -> Self {
        Self(State::Up(connection))
    }

    pub(in crate::client) fn closed() -> Self {
        Self(State::Closed)
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.0, State::Up(_))
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.0, State::Closed)
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.0 {
            State::Up(connection) => Some(connection),
            State::Down { .. } | State::Closed => None,
        }
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        match &self.0 {
            State::Down { retry_at, .. } => Some(*retry_at),
            State::Up(_) | State::Closed => None,
        }
    }

    /// Is tried again after a pause, twice as long each time.
    pub(super) fn lose(&mut self) {
        let (first, longest) = RETRY;
        let pause = match &self.0 {
            State::Down { pause, .. } => pause.saturating_mul(2).min(longest),
            State::Up(_) | State::Closed => first,
        };
        self.0 = State::Down { retry_at: Instant::now() + pause, pause };
    }

    /// The next message; none comes without a connection. Cancel-safe.
    pub(super) async fn receive(&self) -> Result<FromHost, ConnectionError> {
        match &self.0 {
            State::Up(connection) => connection.receive().await.map(believable),
            State::Down { .. } | State::Closed => std::future::pending().await,
        }
    }

    /// The messages that are there already: as many as a socket holds, and not whatever a process goes on saying meanwhile.
    pub(super) fn received_already(&self) -> impl Iterator<Item = FromHost> {
        iter::from_fn(|| self.connection()?.try_receive().ok().map(believable)).take(WAITING_MAX)
    }
}

/// Connects to the process `pid` at its socket `name` and says hello.
pub(super) async fn reach(
    directory: &SocketDirectory,
    name: &str,
    pid: u32,
) -> Result<(Connection, Welcome), ReachError> {
    let failed = |operation| move |source| ReachError::System { operation, source };
    let socket = match directory.dial(name).map_err(failed("connect"))? {
        Dialled::Connected(socket) => socket,
        Dialled::Abandoned => return Err(ReachError::Abandoned),
    };
    let actual = Credentials::of_peer(socket.as_fd()).and_then(|peer| peer.pid());
    let actual = actual.map_err(failed("tell who listens"))?;
    if actual != pid {
        return Err(ReachError::OtherProcess { expected: pid, actual });
    }
    greet(socket, pid, HELLO_PATIENCE).await
}

/// Says hello over `socket` to the process `pid`, and checks that it is who answers within `patience`.
pub(in crate::client) async fn greet(
    socket: OwnedFd,
    pid: u32,
    patience: Duration,
) -> Result<(Connection, Welcome), ReachError> {
    let failed = |operation| move |source| ReachError::System { operation, source };
    let connection = Connection::new(socket).map_err(failed("watch the connection"))?;
    let welcome = timeout(patience, handshake(&connection, None)).await;
    let welcome = welcome
        .unwrap_or(Err(HandshakeError::Silent { patience }))
        .and_then(|welcome| welcome.check(pid))
        .map_err(ReachError::Handshake)?;
    Ok((connection, welcome))
}

#[cfg(test)]
mod tests {
    use vm_model::VmId;

    use super::*;
    use crate::wire::packet_pair;

    #[tokio::test]
    async fn a_process_that_goes_on_talking_is_not_listened_to_for_ever() {
        let (ours, theirs) = packet_pair().expect("a pair of sockets");
        let link = Link::up(Connection::new(ours).expect("watched"));
        let process = Connection::new(theirs).expect("watched");
        let say = || process.try_send(FromHost::Released { vm: VmId::new("vm") }).expect("there is room");
        say();
        let mut heard = 0;
        for _ in link.received_already() {
            say();
            heard += 1;
        }
        assert_eq!(heard, WAITING_MAX);
    }
}

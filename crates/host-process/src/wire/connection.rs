//! A connection that a task awaits: messages over a packet socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{Shutdown, shutdown};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::codec::{CodecError, Message};
use super::packet::{Packet, PacketError, receive_packet, send_packet};
use super::payload::Outgoing;
use crate::awaited::watch;

/// Why a connection is of no use any more, or a message was not sent.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket failed, or is not ready where nobody waits.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// What came is no message, or what was to go cannot.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl ConnectionError {
    /// Whether the other end closed the connection, as it may.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Packet(PacketError::Closed))
    }
}

/// One end of a connection. Any number of tasks may send, one receives.
#[derive(Debug)]
pub struct Connection {
    /// Watched for what comes only. A socket that is also watched for room wakes its process whenever the other end has read
    /// something, which is after each message.
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// The connection of `socket`, which is a connected packet socket.
    ///
    /// # Errors
    /// The descriptor is not one that can be waited for.
    ///
    /// # Panics
    /// Outside of a runtime with I/O.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = watch(socket, Interest::READABLE)?;
        Ok(Self { socket })
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        self.socket.get_ref()
    }

    /// Sends `message` at once or not at all.
    ///
    /// # Errors
    /// [`PacketError::NotReady`] where the other end has not read enough of what was sent before.
    pub fn try_send(&self, message: impl Message) -> Result<(), ConnectionError> {
        let outgoing = message.pack()?;
        Ok(send_packet(self.socket(), outgoing.bytes(), &outgoing.descriptors())?)
    }

    /// Sends what is packed, waiting for room. Cancel-safe: it is sent whole or not at all.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub async fn send(&self, outgoing: &Outgoing) -> Result<(), ConnectionError> {
        loop {
            match send_packet(self.socket(), outgoing.bytes(), &outgoing.descriptors()) {
                Err(PacketError::NotReady) => {
                    self.room().await.map_err(|source| waiting("wait for room", source))?;
                }
                sent => return Ok(sent?),
            }
        }
    }

    /// Returns when there is room, or the connection is closed. Seldom needed: the socket is watched for it only meanwhile.
    async fn room(&self) -> io::Result<()> {
        let watched = watch(self.socket().try_clone()?, Interest::WRITABLE)?;
        let ready = watched.writable().await?;
        drop(ready);
        Ok(())
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// The connection is closed or broken, or what came is no message: then the other end does not keep to the rules, and
    /// the connection is of no use any more.
    pub async fn receive<M: Message>(&self) -> Result<M, ConnectionError> {
        Ok(M::read(self.receive_packet().await?)?)
    }

    /// The next message, if it is there already.
    ///
    /// # Errors
    /// As [`Connection::receive`]; [`PacketError::NotReady`] where nothing is there.
    pub fn try_receive<M: Message>(&self) -> Result<M, ConnectionError> {
        Ok(M::read(receive_packet(self.socket())?)?)
    }

    async fn receive_packet(&self) -> Result<Packet, ConnectionError> {
        loop {
            let mut ready =
                self.socket.readable().await.map_err(|source| waiting("wait for a message", source))?;
            match receive_packet(self.socket()) {
                Err(PacketError::NotReady) => ready.clear_ready(),
                received => return Ok(received?),
            }
        }
    }

    /// Closes both directions, so that whoever waits for the connection, at either end, learns that it is over.
    pub fn close(&self) {
        // It can only fail for a connection that is closed already.
        let _ = shutdown(self.socket().as_fd(), Shutdown::Both);
    }
}

fn waiting(operation: &'static str, source: io::Error) -> PacketError {
    PacketError::System { operation, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use vm_model::VmId;

    use super::*;
    use crate::wire::FromHost;
    use crate::wire::packet::packet_pair;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn message() -> FromHost {
        FromHost::Released { vm: VmId::new("web-1") }
    }

    #[tokio::test]
    async fn a_message_waits_for_room_and_is_sent_then() {
        let (ours, theirs) = packet_pair().expect("a pair of sockets");
        let (sender, receiver) =
            (Connection::new(ours).expect("watched"), Connection::new(theirs).expect("watched"));
        let mut sent = 0;
        let full = loop {
            match sender.try_send(message()) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, ConnectionError::Packet(PacketError::NotReady)), "{full:?}");
        let last = message().pack().expect("it fits");
        let receiving = async {
            for _ in 0..=sent {
                assert_eq!(receiver.receive::<FromHost>().await.expect("it comes"), message());
            }
        };
        let both = async { tokio::join!(sender.send(&last), receiving) };
        timeout(PATIENCE, both).await.expect("there was room").0.expect("it was sent");
    }

    #[tokio::test]
    async fn who_waits_for_room_learns_of_the_end() {
        let (ours, theirs) = packet_pair().expect("a pair of sockets");
        let sender = Connection::new(ours).expect("watched");
        while sender.try_send(message()).is_ok() {}
        let last = message().pack().expect("it fits");
        let ending = async { drop(theirs) };
        let (told, ()) =
            timeout(PATIENCE, async { tokio::join!(sender.send(&last), ending) }).await.expect("told");
        assert!(told.expect_err("nobody is there").is_closed());
    }
}

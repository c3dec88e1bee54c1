//! Packets over a Unix `SOCK_SEQPACKET` socket: bytes and open descriptors, whole or not at all. Nothing here knows what
//! they mean.
//!
//! A packet has a border of its own, so a peer cannot make a reader wait for the rest of one. What does not fit a packet
//! goes into a sealed file instead: see `payload`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use thiserror::Error;

/// The most bytes of a packet.
pub const PACKET_BYTES_MAX: usize = 64 << 10;
/// The most descriptors of a packet: as many as the kernel passes at a time (`SCM_MAX_FD`). A machine has a few, but one
/// with many queues that are served by the host's kernel has two for each.
pub const PACKET_DESCRIPTORS_MAX: usize = 253;

/// What was received in one piece.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, close-on-exec, in the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a packet was not sent or received.
#[derive(Debug, Error)]
pub enum PacketError {
    /// Reading or writing would wait.
    #[error("the socket is not ready")]
    NotReady,
    /// The other end is closed.
    #[error("the other end has closed the connection")]
    Closed,
    /// It is longer than may be. When receiving, it is lost, and its descriptors are closed.
    #[error("a packet has more than {PACKET_BYTES_MAX} bytes")]
    TooLong,
    /// It has more descriptors than may be, or this process may not open so many. When receiving, it is lost and what came
    /// of them is closed.
    #[error("a packet has more than {PACKET_DESCRIPTORS_MAX} descriptors, or there is no room for them")]
    TooManyDescriptors,
    /// The kernel refused.
    #[error("cannot {operation} on the connection")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// Two sockets that are connected with each other, both close-on-exec and non-blocking.
///
/// # Errors
/// There is no room for two more descriptors.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a packet without waiting. `bytes` is not empty: an empty packet reads like the end.
///
/// # Errors
/// [`PacketError::NotReady`] where the other end has not read enough of what was sent before.
pub fn send_packet(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    if bytes.len() > PACKET_BYTES_MAX {
        return Err(PacketError::TooLong);
    }
    if descriptors.len() > PACKET_DESCRIPTORS_MAX {
        return Err(PacketError::TooManyDescriptors);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(PacketError::TooManyDescriptors);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags)) {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err(PacketError::NotReady),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(PacketError::Closed),
        Err(errno) => Err(PacketError::System { operation: "send", source: errno.into() }),
    }
}

/// Receives a packet without waiting.
///
/// # Errors
/// [`PacketError::NotReady`] where there is none. A packet that was not received whole is an error, and nothing of it is
/// kept.
pub fn receive_packet(socket: impl AsFd) -> Result<Packet, PacketError> {
    let mut bytes = vec![0; waiting_bytes(&socket)?.min(PACKET_BYTES_MAX)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::io::retry_on_intr(|| recvmsg(&socket, &mut slices, &mut control, flags))
    };
    let received = received.map_err(not_received)?;
    // Owned from here on: whatever follows, they are closed where they are not handed on.
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(PacketError::TooLong);
    }
    // The buffer has a little more room than is allowed, for its alignment.
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > PACKET_DESCRIPTORS_MAX {
        return Err(PacketError::TooManyDescriptors);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    bytes.truncate(received.bytes);
    Ok(Packet { bytes, descriptors })
}

/// The length of the next packet, which stays. Room for the longest one, made and cleared for each, would cost more than all
/// else that is done about a short one.
fn waiting_bytes(socket: impl AsFd) -> Result<usize, PacketError> {
    let nothing: &mut [u8] = &mut [];
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
    match recv(&socket, nothing, flags).map_err(not_received)? {
        (_, 0) => Err(PacketError::Closed),
        (_, length) => Ok(length),
    }
}

fn not_received(errno: Errno) -> PacketError {
    match errno {
        Errno::AGAIN => PacketError::NotReady,
        Errno::CONNRESET => PacketError::Closed,
        errno => PacketError::System { operation: "receive", source: errno.into() },
    }
}

#[cfg(test)]
mod tests;

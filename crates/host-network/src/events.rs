//! Hearing that something changed in the network namespace: links, addresses, routes, forwarding, packet filter rules.
//!
//! Only that something changed is taken from a message, never what: whoever hears looks for itself. So a message that
//! was lost for want of room means no more than one that came.

#![expect(unsafe_code, reason = "the runtime cannot know that a descriptor stays the same; here it does")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::nfnetlink::origin;

/// Groups of rtnetlink (Linux `include/uapi/linux/rtnetlink.h`): links, IPv4 addresses and routes, IPv6 addresses, and
/// the switches of IPv4 and IPv6 links.
const ROUTE_GROUPS: [u32; 6] = [1, 5, 7, 9, 24, 25];
/// The group of nftables (`include/uapi/linux/netfilter/nfnetlink.h`).
const RULE_GROUPS: [u32; 1] = [7];
/// Messages are thrown away, so it does not matter where they are cut.
const MESSAGE_BYTES: usize = 4096;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Links, addresses, routes or switches.
    Links,
    /// Packet filter rules.
    Rules,
}

/// Two sockets that hear of changes from the moment they are opened.
#[derive(Debug)]
pub(crate) struct NetworkEvents {
    links: AsyncFd<OwnedFd>,
    rules: AsyncFd<OwnedFd>,
    /// The socket by which we change rules: what it changed is no news.
    ours: u32,
}

impl NetworkEvents {
    /// Begins to hear, in the network namespace of the calling thread. Rules that are changed by the socket `ours` are not
    /// heard of.
    ///
    /// # Errors
    /// If there is no socket to be had.
    pub(crate) fn open(ours: u32) -> io::Result<Self> {
        Ok(Self {
            links: register(subscribe(None, &ROUTE_GROUPS)?)?,
            rules: register(subscribe(Some(netlink::NETFILTER), &RULE_GROUPS)?)?,
            ours,
        })
    }

    /// Waits for the next change and takes all messages of its kind that are there. Cancel-safe: nothing is taken
    /// before it returns.
    pub(crate) async fn next(&self) -> io::Result<Changed> {
        loop {
            tokio::select! {
                // Cancel-safe: what is not taken stays in the socket.
                ready = self.links.readable() => {
                    drain(ready?, None);
                    return Ok(Changed::Links);
                }
                // As above.
                ready = self.rules.readable() => {
                    if drain(ready?, Some(self.ours)) {
                        return Ok(Changed::Rules);
                    }
                }
            }
        }
    }
}

/// Without a protocol it is rtnetlink, whose number is 0.
fn subscribe(protocol: Option<Protocol>, groups: &[u32]) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, mask))?;
    Ok(socket)
}

fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always has the same descriptor, and it is closed only when it is dropped, which `AsyncFd` does
    // after deregistering it.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Throws away what is there. Whether anybody but the socket `ours` is behind it. An error is a message too: of messages
/// that were lost.
fn drain(mut ready: tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>, ours: Option<u32>) -> bool {
    let mut buffer = [0; MESSAGE_BYTES];
    let mut is_news = false;
    // What is left after so many is heard of at once again.
    for _message in 0..1024 {
        let received = ready.try_io(|socket| {
            let (length, _) = rustix::net::recv(socket.get_ref(), &mut buffer[..], RecvFlags::TRUNC)?;
            Ok(length)
        });
        match received {
            Ok(Ok(length)) => {
                is_news |= ours.is_none() || origin(&buffer[..length.min(MESSAGE_BYTES)]) != ours
            }
            Ok(Err(_lost)) => is_news = true,
            Err(_would_block) => return is_news,
        }
    }
    true
}

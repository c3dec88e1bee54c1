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

/// Groups of rtnetlink (Linux `include/uapi/linux/rtnetlink.h`): links, neighbours, IPv4 addresses and routes, IPv6 addresses,
/// and the switches of IPv4 and IPv6 links.
///
/// Neighbours come and go all the time; of them only a static entry of a bridge that was deleted is news ([`is_passing`]).
const ROUTE_GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 24, 25];
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
                    if drain(ready?, None) {
                        return Ok(Changed::Links);
                    }
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

/// Whether a message of rtnetlink tells of a neighbour that says nothing of VMs: all but static entries of bridges that were
/// deleted. Several messages in one are judged by the first: the kernel sends such of one kind.
fn is_passing(message: &[u8]) -> bool {
    /// `RTM_NEWNEIGH` and `RTM_DELNEIGH`.
    const NEW: u16 = 28;
    const DELETED: u16 = 29;
    /// `NUD_NOARP`: static.
    const STATIC: u16 = 0x40;
    /// Bytes of netlink's header, behind which is one of the family, three of padding, four of the link and two of the state.
    const HEADER: usize = 16;
    let half = |at: usize| Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?));
    match half(4) {
        Some(NEW) => true,
        Some(DELETED) => {
            let is_of_bridge =
                message.get(HEADER).is_some_and(|family| i32::from(*family) == libc::AF_BRIDGE);
            !(is_of_bridge && half(HEADER + 8).is_some_and(|state| state & STATIC != 0))
        }
        Some(_) | None => false,
    }
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
                let message = &buffer[..length.min(MESSAGE_BYTES)];
                is_news |= match ours {
                    None => !is_passing(message),
                    Some(_) => origin(message) != ours,
                }
            }
            Ok(Err(_lost)) => is_news = true,
            Err(_would_block) => return is_news,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: i32, state: u16) -> Vec<u8> {
        let mut message = 28_u32.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([u8::try_from(family).unwrap(), 0, 0, 0, 7, 0, 0, 0]);
        message.extend(state.to_ne_bytes());
        message.extend([0; 2]);
        message
    }

    #[test]
    fn of_neighbours_only_a_static_entry_that_a_bridge_has_lost_is_news() {
        let (new, deleted, is_static, learnt) = (28, 29, 0x40, 0x02);
        assert!(!is_passing(&message(deleted, libc::AF_BRIDGE, is_static)));
        assert!(is_passing(&message(deleted, libc::AF_BRIDGE, learnt)));
        assert!(is_passing(&message(deleted, libc::AF_INET, is_static)));
        assert!(is_passing(&message(new, libc::AF_BRIDGE, is_static)));
        assert!(!is_passing(&message(16, 0, 0)), "a link");
        assert!(!is_passing(&[]) && !is_passing(&[0; 5]), "what cannot be read is looked after");
    }
}

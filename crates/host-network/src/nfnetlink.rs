//! Transactions with the kernel's packet filter by netlink, for changes that are too small and too many to run `nft`.
//!
//! A transaction is one datagram: a message that begins it, the changes, and one that ends it; the kernel makes all the
//! changes or none (Linux `include/uapi/linux/netfilter/nfnetlink.h`). Blocking, with a deadline.

pub(crate) mod connections;
pub(crate) mod element;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// How long the kernel may take for a transaction.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The subsystem of nftables (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u8 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NLMSG_ERROR`: the kernel's answer to a message, with an error number that is 0 for "done".
const ANSWER: u16 = 2;
/// Flags of a message (`include/uapi/linux/netlink.h`).
const REQUEST: u16 = 0x1;
const ANSWER_ME: u16 = 0x4;
const CREATE: u16 = 0x400;
/// Bytes of the header of every netlink message.
const HEADER_BYTES: usize = 16;
/// This attribute holds others (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;
/// More than one answer has.
const ANSWER_BYTES: usize = 4096;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Which, of nftables' messages.
    pub(crate) kind: u8,
    /// Whether it makes what is not there.
    pub(crate) creates: bool,
    /// The protocol family of its table.
    pub(crate) family: u8,
    pub(crate) body: Attributes,
}

/// Attributes of a message, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes of ours are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn nested(self, kind: u16, Self(inner): Self) -> Self {
        self.bytes(kind | NESTED, &inner)
    }
}

/// A socket for transactions, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct PacketFilter {
    socket: OwnedFd,
    port: u32,
    sequence: u32,
}

impl PacketFilter {
    /// # Errors
    /// If there is no socket to be had.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open_socket()?;
        let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&socket)?)?.pid();
        Ok(Self { socket, port, sequence: 0 })
    }

    /// What the kernel names as the origin of the changes that are made by this socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Makes all the changes, or none.
    ///
    /// # Errors
    /// The kernel's first refusal.
    pub(crate) fn commit(&mut self, changes: &[Message]) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = header(BATCH_BEGIN, REQUEST, first, (0, u16::from(NFTABLES)), &[]);
        for (sequence, change) in (first.wrapping_add(1)..).zip(changes) {
            let kind = u16::from(NFTABLES) << 8 | u16::from(change.kind);
            let flags = REQUEST | ANSWER_ME | if change.creates { CREATE } else { 0 };
            datagram.extend(header(kind, flags, sequence, (change.family, 0), &change.body.0));
        }
        let count = u32::try_from(changes.len()).expect("changes fit a datagram");
        self.sequence = first.wrapping_add(count).wrapping_add(1);
        datagram.extend(header(BATCH_END, REQUEST, self.sequence, (0, u16::from(NFTABLES)), &[]));
        rustix::net::send(&self.socket, &datagram, SendFlags::empty())?;
        self.hear_answers(first, count)
    }

    /// Hears an answer to each of `count` changes of the transaction whose first message is `first`.
    fn hear_answers(&self, first: u32, count: u32) -> io::Result<()> {
        let (mut heard, mut refusal) = (0, None);
        let mut buffer = [0; ANSWER_BYTES];
        while heard < count {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for answer in answers(buffer.get(..length).unwrap_or_default()) {
                // What is left of an earlier transaction, after an error, is passed over.
                let place = answer.sequence.wrapping_sub(first);
                if place > count {
                    continue;
                }
                if answer.error != 0 {
                    refusal.get_or_insert(io::Error::from_raw_os_error(answer.error));
                }
                // An answer to the beginning is about all of it.
                heard += if place == 0 { count } else { 1 };
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// A socket whose answers come within a deadline.
fn open_socket() -> io::Result<OwnedFd> {
    let (netfilter, flags) = (Some(netlink::NETFILTER), SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, netfilter)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_DEADLINE))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

struct Answer {
    sequence: u32,
    /// The error number; 0 for "done".
    error: i32,
}

/// The answers in a datagram of the kernel.
fn answers(mut datagram: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(length) = word(datagram, 0).and_then(|length| usize::try_from(length).ok())
        && (HEADER_BYTES..=datagram.len()).contains(&length)
    {
        let kind = datagram.get(4..6).and_then(|kind| <[u8; 2]>::try_from(kind).ok());
        if kind.map(u16::from_ne_bytes) == Some(ANSWER)
            && let (Some(sequence), Some(error)) = (word(datagram, 8), word(datagram, HEADER_BYTES))
        {
            answers.push(Answer { sequence, error: error.cast_signed().wrapping_neg() });
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// Where the header of a netlink message names the socket that it goes back to.
pub(crate) fn origin(message: &[u8]) -> Option<u32> {
    word(message, 12)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message: netlink's header, nfnetlink's, and attributes.
fn header(kind: u16, flags: u16, sequence: u32, (family, resource): (u8, u16), body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + 4 + body.len()).expect("messages of ours are short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // From us; the kernel knows who that is.
    message.extend(0_u32.to_ne_bytes());
    // The version of nfnetlink is 0.
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(body);
    message
}

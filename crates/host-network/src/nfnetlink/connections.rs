//! Ending the connections of one address in the host's table of connections.
//!
//! The kernel is asked for the entries that an address opened, and for those in which it answers, and each is deleted. Message
//! formats: Linux `include/uapi/linux/netfilter/nfnetlink_conntrack.h`. Kernels before 5.8 have no such question; there entries
//! end by themselves.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags};

use super::element::Family;
use super::{ANSWER, Attributes, HEADER_BYTES, REQUEST, header, open_socket, word};

/// The subsystem (`NFNL_SUBSYS_CTNETLINK`), and of its messages `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const CONNECTIONS: u16 = 1 << 8;
const GET: u16 = CONNECTIONS | 1;
const DELETE: u16 = CONNECTIONS | 2;
/// Everything that matches (`NLM_F_DUMP`), and the message that ends the answer (`NLMSG_DONE`).
const DUMP: u16 = 0x300;
const DONE: u16 = 3;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`; in a tuple `CTA_TUPLE_IP`, and in that `CTA_IP_V4_SRC` and `CTA_IP_V6_SRC`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const IPV4_SOURCE: u16 = 1;
const IPV6_SOURCE: u16 = 3;
/// `CTA_ID` and `CTA_ZONE`: which of two of the same tuple is meant.
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_FILTER`, and in it which fields of either tuple count: the source address (`CTA_FILTER_F_CTA_IP_SRC`).
const FILTER: u16 = 25;
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;
const BY_SOURCE: u32 = 1;
/// The kernel fills at most this much of one answer (`NLMSG_GOODSIZE` and more).
const ANSWER_BYTES: usize = 64 << 10;
/// How many bytes of deletions are sent at once.
const DELETIONS_BYTES: usize = 16 << 10;

/// Deletes the entries of connections that `guest` opened, and of those that others opened to it. How many that were. Blocks.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn end_connections(guest: IpAddr) -> io::Result<usize> {
    let (socket, family) = (open_socket()?, family_of(guest));
    let mut deletions = Vec::new();
    for side in [ORIGINAL, REPLY] {
        ask(&socket, side, guest)?;
        hear_entries(&socket, &mut deletions)?;
    }
    let mut datagram = Vec::new();
    for deletion in &deletions {
        datagram.extend(header(DELETE, REQUEST, 0, (family, 0), &deletion.0));
        if datagram.len() >= DELETIONS_BYTES {
            rustix::net::send(&socket, &datagram, SendFlags::empty())?;
            datagram.clear();
        }
    }
    if !datagram.is_empty() {
        rustix::net::send(&socket, &datagram, SendFlags::empty())?;
    }
    // An entry that has ended meanwhile is refused, which nobody needs to hear.
    Ok(deletions.len())
}

fn family_of(guest: IpAddr) -> u8 {
    match guest {
        IpAddr::V4(_) => Family::Ipv4 as u8,
        IpAddr::V6(_) => Family::Ipv6 as u8,
    }
}

/// Asks for the entries in whose tuple `side` packets come from `guest`.
fn ask(socket: &OwnedFd, side: u16, guest: IpAddr) -> io::Result<()> {
    let address = match guest {
        IpAddr::V4(guest) => Attributes::default().bytes(IPV4_SOURCE, &guest.octets()),
        IpAddr::V6(guest) => Attributes::default().bytes(IPV6_SOURCE, &guest.octets()),
    };
    let tuple = Attributes::default().nested(TUPLE_IP, address);
    let flags = |of: u16| if of == side { BY_SOURCE } else { 0 };
    let filter = Attributes::default()
        .bytes(ORIGINAL_FLAGS, &flags(ORIGINAL).to_ne_bytes())
        .bytes(REPLY_FLAGS, &flags(REPLY).to_ne_bytes());
    let body = Attributes::default().nested(side, tuple).nested(FILTER, filter);
    let message = header(GET, REQUEST | DUMP, 1, (family_of(guest), 0), &body.0);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Adds what deletes each of the entries that the kernel answers with.
fn hear_entries(socket: &OwnedFd, deletions: &mut Vec<Attributes>) -> io::Result<()> {
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut datagram = buffer.get(..length).unwrap_or_default();
        if datagram.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, body, rest)) = split_message(datagram) {
            match kind {
                DONE => return Ok(()),
                ANSWER => {
                    let error = word(body, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
                }
                _entry => deletions.extend(deletion(body)),
            }
            datagram = rest;
        }
    }
}

/// The kind of the first message of a datagram, what follows its header, and the rest of the datagram.
fn split_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(word(datagram, 0)?).ok()?;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let body = datagram.get(HEADER_BYTES..length)?;
    Some((kind, body, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// What deletes the entry that the kernel tells in `message`.
fn deletion(message: &[u8]) -> Option<Attributes> {
    let (mut wanted, mut has_tuple) = (Attributes::default(), false);
    // Behind nfnetlink's header.
    let mut rest = message.get(4..)?;
    while let Some((kind, value, after)) = split_attribute(rest) {
        if [ORIGINAL, ID, ZONE].contains(&(kind & !super::NESTED)) {
            has_tuple |= kind & !super::NESTED == ORIGINAL;
            wanted = wanted.bytes(kind, value);
        }
        rest = after;
    }
    has_tuple.then_some(wanted)
}

/// The kind and value of the first attribute, and those behind it.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (length, kind) = (usize::from(half(0)?), half(2)?);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_deleted_by_its_tuple_and_its_number() {
        let tuple = Attributes::default().bytes(9, b"tuple");
        let entry = Attributes::default()
            .nested(ORIGINAL, tuple.clone())
            .nested(REPLY, Attributes::default().bytes(9, b"other"))
            .bytes(ID, &7_u32.to_be_bytes())
            .bytes(3, b"status");
        let expected = Attributes::default().nested(ORIGINAL, tuple).bytes(ID, &7_u32.to_be_bytes());
        let message = [&[2, 0, 0, 0][..], &entry.0].concat();
        assert_eq!(deletion(&message), Some(expected));
        assert_eq!(deletion(&[2, 0, 0, 0]), None, "without a tuple everything would be meant");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (split_message(&bytes).map(|(kind, ..)| kind), deletion(&bytes));
        }
    }
}

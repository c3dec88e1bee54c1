//! Ethernet frames as a guest makes them, byte by byte: what a well-behaved one sends, and what a hostile one does.
//!
//! For tests of what stands between a guest and its network. Payloads are so short that their lengths fit wherever they
//! are written.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// Everybody on the network.
pub const BROADCAST: Mac = [0xff; 6];
/// Every IPv6 node on the network.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame of EtherType `kind`.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 826. Operation 1 asks, 2 answers.
pub fn arp(operation: u16, sender: Mac, from: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(sender);
    message.extend(from.octets());
    message.extend([0; 6]);
    message.extend(about.octets());
    message
}

/// RFC 791, without options.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_packet(&[], from, to, protocol, payload)
}

/// The same behind four bytes of no-operation options.
pub fn ipv4_with_options(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_packet(&[1; 4], from, to, protocol, payload)
}

/// RFC 791.
fn ipv4_packet(options: &[u8], from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let words = u8::try_from(header / 4).expect("options are short");
    let mut packet = vec![0x40 | words, 0];
    packet.extend(sixteen(header + payload.len()).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv4 packet as a piece of another: of the packet `id`, `offset` bytes into it.
pub fn ipv4_fragment(mut packet: Vec<u8>, id: u16, offset: u16, more: bool) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..usize::from(packet[0] & 0x0f) * 4]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 768, without a checksum.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = from.to_be_bytes().to_vec();
    datagram.extend(to.to_be_bytes());
    datagram.extend(sixteen(8 + payload.len()).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// The TCP segment that asks `to` for a connection (RFC 9293 §3.1).
pub fn tcp_syn((from, from_port): (Ipv4Addr, u16), (to, port): (Ipv4Addr, u16)) -> Vec<u8> {
    let mut segment = [from_port.to_be_bytes(), port.to_be_bytes()].concat();
    // Both numbers are 0; five words of header, SYN, a window, no checksum yet, nothing urgent.
    segment.extend([0; 8]);
    segment.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let length = sixteen(segment.len()).to_be_bytes();
    let covered = [&from.octets()[..], &to.octets(), &[0, 6], &length, &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&covered).to_be_bytes());
    segment
}

/// RFC 8200.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(sixteen(payload.len()).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// RFC 4443: `word` is what stands between the checksum and the body.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, word: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(word);
    message.extend(body);
    let mut covered = from.octets().to_vec();
    covered.extend(to.octets());
    covered.extend(u32::from(sixteen(message.len())).to_be_bytes());
    covered.extend([0, 0, 0, 58]);
    covered.extend(&message);
    let sum = checksum(&covered);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Options with a router alert (RFC 2711) before `payload`.
pub fn router_alert(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0, 5, 2, 0, 0, 1, 0];
    header.extend(payload);
    header
}

/// A piece of a fragmented packet, `offset` bytes into it.
pub fn fragment(next: u8, offset: u16, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut payload = vec![next, 0];
    payload.extend((offset | u16::from(more)).to_be_bytes());
    payload.extend([0, 0, 0, 7]);
    payload.extend(piece);
    payload
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let pair = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// A length as headers hold it.
fn sixteen(length: usize) -> u16 {
    u16::try_from(length).expect("payloads are short")
}

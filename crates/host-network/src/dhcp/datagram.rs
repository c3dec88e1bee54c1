//! DHCP messages in and out of IPv4 packets (RFC 791, RFC 768), as a packet socket delivers and takes them.

use std::net::Ipv4Addr;

/// The server's UDP port.
pub(crate) const SERVER_PORT: u16 = 67;
/// The client's UDP port.
pub(crate) const CLIENT_PORT: u16 = 68;

const UDP: u8 = 17;
const IPV4_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const TIME_TO_LIVE: u8 = 64;

/// The payload of `packet` if it is an unfragmented UDP packet to the server's port.
///
/// Checksums are not looked at: a guest with checksum offload leaves them to the receiver, and the packet has not
/// crossed a wire.
pub(crate) fn payload_of(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header_bytes = usize::from(first & 0x0f) * 4;
    let total_bytes = usize::from(read_u16(packet, 2)?);
    let fragment = read_u16(packet, 6)?;
    // Bit 14 is "don't fragment"; the others say that this is a fragment.
    let is_whole = fragment & 0xbfff == 0;
    if first >> 4 != 4 || header_bytes < IPV4_HEADER_BYTES || !is_whole || *packet.get(9)? != UDP {
        return None;
    }
    let datagram = packet.get(header_bytes..total_bytes)?;
    let udp_bytes = usize::from(read_u16(datagram, 4)?);
    if read_u16(datagram, 2)? != SERVER_PORT {
        return None;
    }
    datagram.get(UDP_HEADER_BYTES..udp_bytes)
}

/// An IPv4 packet that carries `payload` from the server at `source` to the client at `destination`; `None` if it
/// would be too long for one.
pub(crate) fn packet_with(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_bytes = u16::try_from(UDP_HEADER_BYTES + payload.len()).ok()?;
    let total_bytes = u16::try_from(IPV4_HEADER_BYTES + usize::from(udp_bytes)).ok()?;
    let mut packet = Vec::with_capacity(usize::from(total_bytes));
    packet.extend([0x45, 0x10]);
    packet.extend(total_bytes.to_be_bytes());
    // No identification, don't fragment.
    packet.extend([0, 0, 0x40, 0, TIME_TO_LIVE, UDP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let header_checksum = checksum(0, &packet);
    packet[10..12].copy_from_slice(&header_checksum.to_be_bytes());

    packet.extend(SERVER_PORT.to_be_bytes());
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let pseudo_header =
        u32::from(UDP) + u32::from(udp_bytes) + sum(&source.octets()) + sum(&destination.octets());
    // Zero means "no checksum"; its other representation stands for it (RFC 768).
    let udp_checksum = match checksum(pseudo_header, &packet[IPV4_HEADER_BYTES..]) {
        0 => u16::MAX,
        other => other,
    };
    let checksum_at = IPV4_HEADER_BYTES + 6;
    packet[checksum_at..checksum_at + 2].copy_from_slice(&udp_checksum.to_be_bytes());
    Some(packet)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The Internet checksum (RFC 1071) of `bytes` after what `start` sums up.
pub(crate) fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = start + sum(bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).expect("the loop above leaves 16 bits")
}

/// The sum of `bytes` as 16-bit words; at most 2³¹ for the 64 KiB of one packet.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_checksum_is_the_internets() {
        let source = Ipv4Addr::new(10, 100, 0, 1);
        let packet = packet_with(source, Ipv4Addr::BROADCAST, b"odd").unwrap();
        assert_eq!(checksum(0, &packet[..20]), 0, "a header sums up to zero");
        let pseudo = 17 + 11 + sum(&packet[12..20]);
        assert_eq!(checksum(pseudo, &packet[20..]), 0, "and so does a datagram");
    }

    #[test]
    fn a_fragment_or_another_port_is_none_of_ours() {
        let mut packet = packet_with(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, b"hello").unwrap();
        assert_eq!(payload_of(&packet), None, "it is addressed to the client's port");
        packet[22..24].copy_from_slice(&67_u16.to_be_bytes());
        assert_eq!(payload_of(&packet), Some(&b"hello"[..]));
        packet[6] = 0x20;
        assert_eq!(payload_of(&packet), None, "more fragments follow");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(payload) = payload_of(&bytes) {
                prop_assert!(payload.len() + 28 <= bytes.len());
            }
        }

        #[test]
        fn payloads_survive(payload in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut packet = packet_with(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, &payload).unwrap();
            packet[22..24].copy_from_slice(&SERVER_PORT.to_be_bytes());
            // What a link adds to short frames is left out.
            packet.extend([0; 7]);
            prop_assert_eq!(payload_of(&packet), Some(&payload[..]));
        }
    }
}

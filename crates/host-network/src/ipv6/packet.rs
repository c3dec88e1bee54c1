//! IPv6 packets as a packet socket delivers and takes them: router solicitations and DHCPv6 messages in, answers out
//! (RFC 8200, RFC 4443, RFC 768).

use std::net::Ipv6Addr;

use vm_model::{MacAddress, link_local};

use crate::dhcp::checksum;

/// Every node on the link (RFC 4291 §2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The UDP ports of DHCPv6 (RFC 8415 §7.2).
pub(crate) const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
/// Next headers.
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// The type of a router solicitation (RFC 4861 §4.1).
pub(crate) const ROUTER_SOLICITATION: u8 = 133;

/// The hop limit by which a packet is known not to have come through a router (RFC 4861 §6.1).
const ON_LINK: u8 = 255;
const HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
/// A router solicitation without options.
const SOLICITATION_BYTES: usize = 8;

/// What a guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'packet> {
    /// Who its router is; it has no address yet where that is unspecified.
    Router {
        /// The address that it asks from.
        source: Ipv6Addr,
    },
    /// A DHCPv6 message, from its link-local address.
    Dhcp(&'packet [u8]),
}

/// What the guest with the hardware address `sender` asks by `packet`; `None` for anything else. Extension headers are
/// none of a guest's, and checksums are left to the receiver by guests with offload: the packet has not crossed a wire.
pub(crate) fn read(packet: &[u8], sender: MacAddress) -> Option<Asked<'_>> {
    let (header, rest) = packet.split_at_checked(HEADER_BYTES)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = rest.get(..length)?;
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let is_own = source == link_local(sender);
    if header[0] >> 4 != 6 {
        return None;
    }
    match header[6] {
        ICMPV6 => {
            let is_solicitation = payload.len() >= SOLICITATION_BYTES
                && payload[..2] == [ROUTER_SOLICITATION, 0]
                && header[7] == ON_LINK;
            (is_solicitation && (is_own || source.is_unspecified())).then_some(Asked::Router { source })
        }
        UDP => {
            let (ports, message) = payload.split_at_checked(UDP_HEADER_BYTES)?;
            let udp_bytes = usize::from(u16::from_be_bytes([ports[4], ports[5]]));
            let is_to_server = u16::from_be_bytes([ports[2], ports[3]]) == SERVER_PORT;
            let message = message.get(..udp_bytes.checked_sub(UDP_HEADER_BYTES)?)?;
            (is_to_server && is_own).then_some(Asked::Dhcp(message))
        }
        _ => None,
    }
}

/// A packet with the ICMPv6 message `message`, whose checksum is still zero; `None` if that is too long for one.
pub(super) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Option<Vec<u8>> {
    let sum = checksum(pseudo_header(source, destination, ICMPV6, &message)?, &message);
    message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    packet(source, destination, ICMPV6, &message)
}

/// A packet with a DHCPv6 message from the server to a client; `None` if that is too long for one.
pub(super) fn dhcp(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER_BYTES + message.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend([SERVER_PORT, CLIENT_PORT, length, 0].into_iter().flat_map(u16::to_be_bytes));
    datagram.extend(message);
    // Zero would mean that there is no checksum, which IPv6 does not allow (RFC 8200 §8.1).
    let sum = match checksum(pseudo_header(source, destination, UDP, &datagram)?, &datagram) {
        0 => u16::MAX,
        other => other,
    };
    datagram.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    packet(source, destination, UDP, &datagram)
}

/// What the checksum counts beside the payload (RFC 8200 §8.1), summed up.
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Option<u32> {
    let words = source.segments().into_iter().chain(destination.segments());
    let length = u32::from(u16::try_from(payload.len()).ok()?);
    Some(words.map(u32::from).sum::<u32>() + length + u32::from(next))
}

fn packet(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut packet = Vec::with_capacity(HEADER_BYTES + payload.len());
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([next, ON_LINK]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddress = MacAddress::new([2, 0x50, 10, 100, 0, 2]);

    /// A client's packet with `message`.
    fn question(message: &[u8]) -> Vec<u8> {
        let mut packet = dhcp(link_local(MAC), "ff02::1:2".parse().unwrap(), message).unwrap();
        packet[40..44].copy_from_slice(&[2, 34, 2, 35]);
        packet
    }

    #[test]
    fn only_questions_in_a_guests_own_name_are_heard() {
        assert_eq!(read(&question(b"hello"), MAC), Some(Asked::Dhcp(b"hello")));
        assert_eq!(read(&question(b"hello"), MacAddress::new([2, 0, 0, 0, 0, 9])), None);
        let solicitation = |source: Ipv6Addr| {
            icmpv6(source, "ff02::2".parse().unwrap(), vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
                .unwrap()
        };
        for source in [link_local(MAC), Ipv6Addr::UNSPECIFIED] {
            assert_eq!(read(&solicitation(source), MAC), Some(Asked::Router { source }));
        }
        assert_eq!(read(&solicitation("fe80::1".parse().unwrap()), MAC), None, "another's address");
        let mut far = solicitation(link_local(MAC));
        far[7] = 64;
        assert_eq!(read(&far, MAC), None, "it may have come through a router");
    }

    #[test]
    fn checksums_come_out_even() {
        let (from, to) = (link_local(MAC), ALL_NODES);
        for packet in [dhcp(from, to, b"odd").unwrap(), icmpv6(from, to, vec![134, 0, 0, 0, 1]).unwrap()] {
            let payload = &packet[40..];
            assert_eq!(checksum(pseudo_header(from, to, packet[6], payload).unwrap(), payload), 0);
        }
        assert_eq!(dhcp(from, to, &[0; 65_528]), None, "too long");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(Asked::Dhcp(message)) = read(&bytes, MAC) {
                prop_assert!(message.len() + 48 <= bytes.len());
            }
        }

        #[test]
        fn messages_survive(message in prop::collection::vec(any::<u8>(), 0..1400)) {
            let mut packet = question(&message);
            // What a link adds to short frames is left out.
            packet.extend([0; 7]);
            prop_assert_eq!(read(&packet, MAC), Some(Asked::Dhcp(&message)));
        }
    }
}

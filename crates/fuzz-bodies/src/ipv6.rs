//! Packets that reach the server of IPv6 addresses from a guest: DHCPv6 messages (RFC 8415) and router solicitations.

use host_network::fuzzing::ipv6_exchange;
use vm_model::{MacAddress, link_local};

use crate::input::Input;

/// The guest that asks.
const CLIENT: MacAddress = MacAddress::new([2, 0x50, 10, 100, 0, 2]);
/// The longest answer: four associations of four addresses each, and what a client calls itself.
const ANSWER_BYTES: usize = 1000;
/// Bytes of the headers of IP and UDP before a message.
const HEADER_BYTES: usize = 48;

/// One packet as it came, or around the message alone.
pub(crate) fn packets(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_whole = input.flag();
    let packet = if is_whole { input.rest().to_vec() } else { around(input.rest()) };
    if let Some(reply) = ipv6_exchange(CLIENT, &packet).filter(|reply| !reply.is_empty()) {
        assert!(reply.len() < ANSWER_BYTES, "{} bytes", reply.len());
        assert_eq!(
            reply.get(1..4),
            packet.get(HEADER_BYTES + 1..HEADER_BYTES + 4),
            "it is of another exchange"
        );
    }
    let stranger = MacAddress::new([2, 0, 0, 0, 0, 9]);
    let heard = ipv6_exchange(stranger, &packet).filter(|reply| !reply.is_empty());
    assert_eq!(heard, None, "nobody is told another's address");
}

/// A packet of the guest with a message to the server.
fn around(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len() + 8).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 17, 255];
    packet.extend(link_local(CLIENT).octets());
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
    packet.extend([2, 34, 2, 35, length[0], length[1], 0, 0]);
    packet.extend(message);
    packet
}

//! A door for fuzzers: what DHCP and name servers make of what guests and others send.

use std::net::Ipv4Addr;

use vm_model::MacAddress;

use crate::dhcp::Bindings;
use crate::dns::{self, Zone};
use crate::ipv6::packet::Asked;
use crate::ipv6::{self, Ipv6Facts};
use crate::{BetweenVms, Egress};

/// The message in `packet`, if it is one for a DHCP server.
#[must_use]
pub fn dhcp_payload(packet: &[u8]) -> Option<&[u8]> {
    crate::dhcp::payload_of(packet)
}

/// What the guest with the hardware address `sender` is answered to `packet`: a DHCPv6 message, or nothing in it where the
/// packet asks for the router.
#[must_use]
pub fn ipv6_exchange(sender: MacAddress, packet: &[u8]) -> Option<Vec<u8>> {
    let facts = Ipv6Facts {
        subnet: "fd12::/64".parse().ok()?,
        router: MacAddress::new([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        egress: Egress::Masquerade,
        domain: "vm.internal".parse().ok(),
    };
    match ipv6::packet::read(packet, sender)? {
        Asked::Router { .. } => Some(Vec::new()),
        Asked::Dhcp(message) => ipv6::respond(&facts, sender, message),
    }
}

/// What the name server answers to a guest's `question` from `bindings`, if it is one about VMs; and whether `answer` would be
/// taken for another server's answer to it under the number `id`. `None` where it is no question.
#[must_use]
pub fn dns_exchange(
    bindings: &Bindings,
    question: &[u8],
    answer: &[u8],
    id: u16,
) -> Option<(Option<Vec<u8>>, bool)> {
    let zone = Zone {
        peers: Vec::new(),
        domain: "vm.internal".parse().ok()?,
        subnet: "10.100.0.0/16".parse().ok()?,
        gateway: Ipv4Addr::new(10, 100, 0, 1),
        ipv6: "fd12::/64".parse().ok(),
        between_vms: BetweenVms::Open,
    };
    let query = dns::parse(question).ok()?;
    Some((zone.answer(&query, zone.gateway, bindings), dns::is_answer_to(answer, id, &query)))
}

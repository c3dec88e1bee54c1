//! Router advertisements (RFC 4861 §4.2): who the router is, what is on the link, and that addresses come by DHCPv6.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::server::Ipv6Facts;
use crate::Egress;

/// The type of the message.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// The hop limit that guests give their packets.
const HOP_LIMIT: u8 = 64;
/// Addresses come by DHCPv6, and so does the rest (the M and O flags, §4.2).
const BY_DHCP: u8 = 0xc0;
/// Addresses of the prefix are on the link (the L flag, §4.6.2); the A flag is not set, as `ipv6` says.
const ON_LINK: u8 = 0x80;
/// For how long a guest keeps the router without hearing from it: as long as the field holds (RFC 8319 §4). Nobody
/// advertises while no worker runs, and guests run on meanwhile.
const ROUTER_LIFETIME: u16 = u16::MAX;
/// For how long it takes the prefix for its own link, and asks the name server; as DHCP's leases.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Types of options (§4.6, RFC 8106 §5.1).
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const NAME_SERVERS: u8 = 25;

/// The message, with a checksum of zero.
pub(super) fn advertisement(facts: &Ipv6Facts) -> Vec<u8> {
    let router_lifetime = match facts.egress {
        Egress::Masquerade | Egress::Routed => ROUTER_LIFETIME,
        // It is on the link with them and leads nowhere.
        Egress::Isolated => 0,
    };
    let lifetime = u32::try_from(LIFETIME.as_secs()).expect("a month fits").to_be_bytes();
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, BY_DHCP];
    message.extend(router_lifetime.to_be_bytes());
    // Reachable time and retransmission timer are the guest's own.
    message.extend([0; 8]);
    message.extend([PREFIX_INFORMATION, 4, facts.subnet.prefix_length(), ON_LINK]);
    message.extend([lifetime, lifetime, [0; 4]].concat());
    message.extend(facts.subnet.network().octets());
    message.extend([MTU, 1, 0, 0]);
    message.extend(u32::from(facts.mtu).to_be_bytes());
    if let Some(server) = facts.name_server() {
        message.extend([NAME_SERVERS, 3, 0, 0]);
        message.extend(lifetime);
        message.extend(Ipv6Addr::octets(&server));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv6::server::tests::facts;

    #[test]
    fn it_says_where_addresses_come_from_and_offers_none() {
        let message = advertisement(&facts());
        assert_eq!(message[..8], [134, 0, 0, 0, 64, 0xc0, 0xff, 0xff]);
        assert_eq!(message[16..20], [3, 4, 64, 0x80], "on the link, and not for autoconfiguration");
        assert_eq!(message[32..48], facts().subnet.network().octets());
        assert_eq!(message[48..56], [5, 1, 0, 0, 0, 0, 0x05, 0xdc]);
        assert_eq!(message[56..58], [25, 3]);
        assert_eq!(message[64..], facts().subnet.gateway().octets());
        assert_eq!(message.len() % 8, 0);
    }

    #[test]
    fn a_router_that_leads_nowhere_is_none() {
        let message = advertisement(&Ipv6Facts { egress: Egress::Isolated, domain: None, ..facts() });
        assert_eq!(message[6..8], [0, 0]);
        assert_eq!(message.len(), 56, "and no name server is told where there is none");
    }
}

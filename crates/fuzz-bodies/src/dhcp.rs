//! Packets that reach the DHCP server from a guest (RFC 2131).

use std::net::Ipv4Addr;

use host_network::RouterAdvice;
use host_network::dhcp::{Binding, Bindings, ReplyTo, ServerFacts, respond};
use host_network::fuzzing::dhcp_payload;
use ipnetwork::Ipv4Network;
use vm_model::{MacAddress, VmId};

use crate::input::Input;

/// The guest that asks.
const CLIENT: MacAddress = MacAddress::new([2, 0x50, 10, 100, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);

/// One packet, as IP or as the message alone.
pub(crate) fn packets(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let as_packet = input.flag();
    let rest = input.rest();
    let message = if as_packet { dhcp_payload(rest) } else { Some(rest) };
    let Some(message) = message else { return };
    assert!(message.len() <= rest.len());
    let facts = ServerFacts {
        address: Ipv4Addr::new(10, 100, 0, 1),
        subnet: Ipv4Network::new(Ipv4Addr::new(10, 100, 0, 0), 16).expect("a network"),
        router: RouterAdvice::Told,
        dns: vec![Ipv4Addr::new(10, 100, 0, 1)],
        domain: None,
    };
    let mut bindings = Bindings::default();
    let binding = Binding {
        vm: VmId::new("web-1"),
        nic: "net0".to_owned(),
        address: ADDRESS,
        mask: None,
        mtu: Some(1400),
    };
    bindings.insert(CLIENT, binding).expect("the first one");
    if let Some(reply) = respond(&facts, &bindings, CLIENT, message) {
        assert!((300..1500).contains(&reply.message.len()), "{} bytes", reply.message.len());
        if let ReplyTo::Client { mac, address } = reply.to {
            assert_eq!(mac, CLIENT);
            assert!(address == ADDRESS || address == Ipv4Addr::BROADCAST);
        }
    }
    let stranger = MacAddress::new([2, 0, 0, 0, 0, 9]);
    assert_eq!(respond(&facts, &bindings, stranger, message), None, "nobody is told another's address");
}

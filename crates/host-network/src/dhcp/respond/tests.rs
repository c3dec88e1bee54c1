//! Each of a client's states, and everything that deserves silence.

use dhcproto::v4::Flags;
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;
use vm_model::VmId;

use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 99);
const MAC: MacAddress = MacAddress::new([2, 0x50, 10, 100, 0, 2]);
const STRANGER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn facts() -> ServerFacts {
    ServerFacts {
        address: SERVER,
        subnet: "10.100.0.0/16".parse().unwrap(),
        router: RouterAdvice::Told,
        dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
        domain: None,
    }
}

fn bindings() -> Bindings {
    let mut bindings = Bindings::default();
    let binding = Binding {
        vm: VmId::new("web-1"),
        nic: "net0".to_owned(),
        address: ADDRESS,
        mask: None,
        mtu: Some(1400),
    };
    bindings.insert(MAC, binding).unwrap();
    bindings
}

fn request(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::default();
    message.set_xid(0x1234_5678).set_chaddr(&MAC.octets());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn reply_to(request: &[u8]) -> Option<(Message, ReplyTo)> {
    let reply = respond(&facts(), &bindings(), MAC, request)?;
    let message = Message::decode(&mut Decoder::new(&reply.message)).unwrap();
    Some((message, reply.to))
}

fn kind_of(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

fn asking_for(address: Ipv4Addr) -> impl FnOnce(&mut Message) {
    move |message| {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    }
}

#[test]
fn a_network_that_is_not_the_way_out_tells_no_router() {
    let facts = ServerFacts { router: RouterAdvice::Untold, ..facts() };
    let reply = respond(&facts, &bindings(), MAC, &request(MessageType::Discover, |_| {})).unwrap();
    let message = Message::decode(&mut Decoder::new(&reply.message)).unwrap();
    assert!(message.opts().get(OptionCode::Router).is_none(), "{message:?}");
    assert!(message.opts().get(OptionCode::SubnetMask).is_some(), "{message:?}");
}

#[test]
fn a_discover_is_offered_the_bound_address_with_every_option() {
    let (offer, to) = reply_to(&request(MessageType::Discover, |_| {})).unwrap();
    assert_eq!(kind_of(&offer), MessageType::Offer);
    assert_eq!(offer.opcode(), Opcode::BootReply);
    assert_eq!((offer.xid(), offer.yiaddr(), offer.chaddr()), (0x1234_5678, ADDRESS, &MAC.octets()[..]));
    assert_eq!(to, ReplyTo::Client { mac: MAC, address: ADDRESS });
    for expected in [
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 0, 0)),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 100, 255, 255)),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(192, 0, 2, 53)]),
        DhcpOption::Hostname("web-1".to_owned()),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::AddressLeaseTime(2_592_000),
        DhcpOption::Renewal(21_600),
        DhcpOption::Rebinding(2_268_000),
    ] {
        assert_eq!(offer.opts().get(OptionCode::from(&expected)), Some(&expected));
    }
}

#[test]
fn the_domain_is_told_as_the_clients_own_and_as_one_to_look_names_up_in() {
    let facts = ServerFacts { domain: Some("vm.internal".to_owned()), ..facts() };
    let asked = request(MessageType::Discover, |_| {});
    let reply = respond(&facts, &bindings(), MAC, &asked).expect("an offer");
    let holds = |part: &[u8]| reply.message.windows(part.len()).any(|window| window == part);
    assert!(holds(b"\x0f\x0bvm.internal"), "{:?}", reply.message);
    assert!(holds(b"\x77\x0d\x02vm\x08internal\0"), "{:?}", reply.message);
}

#[test]
fn a_client_that_asks_for_a_broadcast_gets_one() {
    let broadcast = |message: &mut Message| {
        message.set_flags(Flags::default().set_broadcast());
    };
    let (offer, to) = reply_to(&request(MessageType::Discover, broadcast)).unwrap();
    assert_eq!(to, ReplyTo::Broadcast);
    assert!(offer.flags().broadcast());
}

#[test]
fn the_bound_address_is_acknowledged_however_it_is_asked_for() {
    let selecting = request(MessageType::Request, |message| {
        asking_for(ADDRESS)(message);
        message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    });
    let rebooting = request(MessageType::Request, asking_for(ADDRESS));
    let renewing = request(MessageType::Request, |message| {
        message.set_ciaddr(ADDRESS);
    });
    for request in [selecting, rebooting, renewing] {
        let (ack, to) = reply_to(&request).unwrap();
        assert_eq!((kind_of(&ack), ack.yiaddr()), (MessageType::Ack, ADDRESS));
        assert_eq!(to, ReplyTo::Client { mac: MAC, address: ADDRESS });
    }
}

#[test]
fn another_address_is_refused_and_names_the_right_one() {
    for request in [
        request(MessageType::Request, asking_for(OTHER)),
        request(MessageType::Request, |message| {
            message.set_ciaddr(OTHER);
        }),
    ] {
        let (nak, to) = reply_to(&request).unwrap();
        assert_eq!((kind_of(&nak), nak.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(to, ReplyTo::Client { mac: MAC, address: Ipv4Addr::BROADCAST });
        assert_eq!(
            nak.opts().get(OptionCode::Message),
            Some(&DhcpOption::Message("this interface has the address 10.100.0.2".to_owned()))
        );
        assert_eq!(nak.opts().get(OptionCode::AddressLeaseTime), None);
    }
}

#[test]
fn an_inform_is_told_the_network_but_no_lease() {
    let inform = |address| {
        request(MessageType::Inform, move |message| {
            message.set_ciaddr(address);
        })
    };
    let (ack, _) = reply_to(&inform(ADDRESS)).unwrap();
    assert_eq!((kind_of(&ack), ack.yiaddr()), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), None);
    assert_eq!(ack.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![SERVER])));
    assert_eq!(reply_to(&inform(OTHER)), None);
}

#[test]
fn silence_where_it_is_right() {
    let discover = request(MessageType::Discover, |_| {});
    let stranger = respond(&facts(), &Bindings::default(), MAC, &discover);
    assert_eq!(stranger, None, "an unknown MAC");
    assert_eq!(respond(&facts(), &bindings(), STRANGER, &discover), None, "in another's name");
    for (why, request) in [
        (
            "another server was chosen",
            request(MessageType::Request, |message| {
                asking_for(ADDRESS)(message);
                message.opts_mut().insert(DhcpOption::ServerIdentifier(OTHER));
            }),
        ),
        ("nothing is asked for", request(MessageType::Request, |_| {})),
        (
            "a release needs no answer",
            request(MessageType::Release, |message| {
                message.set_ciaddr(ADDRESS);
            }),
        ),
        ("a decline needs no answer", request(MessageType::Decline, asking_for(ADDRESS))),
        (
            "it is a server's message",
            request(MessageType::Offer, |message| {
                message.set_opcode(Opcode::BootReply);
            }),
        ),
        (
            "it came by a relay",
            request(MessageType::Discover, |message| {
                message.set_giaddr(OTHER);
            }),
        ),
        ("it is no DHCP", request(MessageType::Discover, |message| message.opts_mut().clear())),
    ] {
        assert_eq!(reply_to(&request), None, "{why}");
    }
}

proptest! {
    /// A valid message with any bytes written over any place: no panic, at most one answer, to the asker's own
    /// hardware address or as an IP broadcast, with nobody else's address, and not much longer than the question.
    #[test]
    fn a_guest_gets_at_most_its_own_answer(
        kind in 0_u8..20,
        patches in prop::collection::vec((0_usize..400, any::<u8>()), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..120),
        cut in 0_usize..420,
    ) {
        let mut bytes = request(MessageType::from(kind), asking_for(ADDRESS));
        // The end mark goes, so that the tail is read as options.
        bytes.pop();
        bytes.extend(tail);
        for (at, byte) in patches {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        bytes.truncate(cut);
        if let Some(reply) = respond(&facts(), &bindings(), MAC, &bytes) {
            prop_assert!(reply.message.len() <= 400, "{} bytes", reply.message.len());
            let message = Message::decode(&mut Decoder::new(&reply.message)).unwrap();
            prop_assert!([ADDRESS, Ipv4Addr::UNSPECIFIED].contains(&message.yiaddr()));
            if let ReplyTo::Client { mac, address } = reply.to {
                prop_assert_eq!(mac, MAC);
                prop_assert!([ADDRESS, Ipv4Addr::BROADCAST].contains(&address));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = respond(&facts(), &bindings(), MAC, &bytes);
    }

    #[test]
    fn bindings_never_share_an_address(steps in prop::collection::vec((any::<bool>(), 0_u8..4, 0_u8..4), 0..60)) {
        let mut bindings = Bindings::default();
        for (insert, mac, address) in steps {
            let mac = MacAddress::new([2, 0, 0, 0, 0, mac]);
            let address = Ipv4Addr::new(10, 0, 0, address);
            let bound: Vec<_> = (0..4)
                .filter_map(|low| bindings.get(MacAddress::new([2, 0, 0, 0, 0, low])))
                .map(|binding| binding.address)
                .collect();
            if insert {
                let binding = Binding { vm: VmId::new("a"), nic: String::new(), address, mask: None, mtu: None };
                let is_free = bindings.get(mac).is_none() && !bound.contains(&address);
                prop_assert_eq!(bindings.insert(mac, binding).is_ok(), is_free);
            } else {
                bindings.remove(mac);
                prop_assert_eq!(bindings.get(mac), None);
            }
        }
    }
}

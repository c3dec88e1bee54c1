//! Each message of a client, and what becomes of messages that are none.

use dhcproto::v6::{DhcpOption, Message, MessageType, Status};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

use super::*;
use crate::ipv6::server::tests::facts;

const CLIENT: MacAddress = MacAddress::new([2, 0x50, 10, 100, 0, 2]);
const CLIENT_NAME: &[u8] = &[0, 1, 0, 1, 42, 42, 42, 42, 2, 0x50, 10, 100, 0, 2];

fn own() -> Ipv6Addr {
    facts().subnet.address_of(CLIENT)
}

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, code, data);
    bytes
}

fn ia(addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
    for address in addresses {
        push(&mut data, IA_ADDRESS, &lifetimes(*address, LIFETIME));
    }
    option(IA_NA, &data)
}

fn request(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [vec![kind, 1, 2, 3], option(CLIENT_ID, CLIENT_NAME), options.concat()].concat()
}

fn ours() -> Vec<u8> {
    option(SERVER_ID, &facts().server_id())
}

/// The answer as another implementation reads it.
fn ask(request: &[u8]) -> Option<Message> {
    let answer = respond(&facts(), CLIENT, request)?;
    Some(Message::decode(&mut Decoder::new(&answer)).expect("a message"))
}

/// The addresses of the answer with their valid lifetimes.
fn addresses(message: &Message) -> Vec<(Ipv6Addr, u32)> {
    let associations = message.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(association) => Some(association),
        _ => None,
    });
    let inner = associations.flat_map(|association| association.opts.iter());
    let address = |option: &DhcpOption| match option {
        DhcpOption::IAAddr(address) => Some((address.addr, address.valid_life)),
        _ => None,
    };
    inner.filter_map(address).collect()
}

fn status(message: &Message) -> Option<Status> {
    message.opts().iter().find_map(|option| match option {
        DhcpOption::StatusCode(status) => Some(status.status),
        _ => None,
    })
}

#[test]
fn a_client_is_offered_and_given_its_address() {
    let offer = ask(&request(SOLICIT, &[ia(&[])])).unwrap();
    assert_eq!((offer.msg_type(), offer.xid()), (MessageType::Advertise, [1, 2, 3]));
    assert_eq!(addresses(&offer), [(own(), 2_592_000)]);
    let reply = ask(&request(REQUEST, &[ours(), ia(&[own()])])).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(addresses(&reply), [(own(), 2_592_000)]);
    let told: Vec<&DhcpOption> = reply.opts().iter().collect();
    assert!(told.contains(&&DhcpOption::ClientId(CLIENT_NAME.to_vec())), "{told:?}");
    assert!(told.contains(&&DhcpOption::DomainNameServers(vec![facts().subnet.gateway()])), "{told:?}");
    assert!(format!("{told:?}").contains("vm.internal"), "{told:?}");
}

#[test]
fn a_hasty_client_is_given_it_at_once() {
    let reply = ask(&request(SOLICIT, &[option(RAPID_COMMIT, &[]), ia(&[])])).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert!(reply.opts().iter().any(|option| *option == DhcpOption::RapidCommit));
    assert_eq!(addresses(&reply), [(own(), 2_592_000)]);
}

#[test]
fn other_addresses_end_when_a_client_wants_to_keep_them() {
    let foreign: Ipv6Addr = "2001:db8::7".parse().unwrap();
    for (kind, server) in [(RENEW, ours()), (REBIND, Vec::new())] {
        let reply = ask(&request(kind, &[server, ia(&[foreign, own()])])).unwrap();
        assert_eq!(addresses(&reply), [(own(), 2_592_000), (foreign, 0)]);
    }
    assert_eq!(status(&ask(&request(CONFIRM, &[ia(&[own()])])).unwrap()), Some(Status::Success));
    assert_eq!(status(&ask(&request(CONFIRM, &[ia(&[own(), foreign])])).unwrap()), Some(Status::NotOnLink));
    assert!(ask(&request(CONFIRM, &[ia(&[])])).is_none(), "there is nothing to confirm");
    for kind in [RELEASE, DECLINE] {
        assert_eq!(status(&ask(&request(kind, &[ours(), ia(&[own()])])).unwrap()), Some(Status::Success));
    }
}

#[test]
fn an_interface_has_one_address_and_no_prefix() {
    let delegated = option(IA_PD, &[0; 12]);
    let temporary = option(IA_TA, &[0, 0, 0, 1]);
    let offer = ask(&request(SOLICIT, &[ia(&[]), ia(&[]), delegated, temporary])).unwrap();
    assert_eq!(addresses(&offer), [(own(), 2_592_000)]);
    let text = format!("{:?}", offer.opts());
    assert!(text.contains("NoAddrsAvail") && text.contains("NoPrefixAvail"), "{text}");
}

#[test]
fn information_is_told_to_whoever_asks() {
    let reply = respond(&facts(), CLIENT, &[INFORMATION_REQUEST, 1, 2, 3]).unwrap();
    let reply = Message::decode(&mut Decoder::new(&reply)).unwrap();
    assert!(reply.opts().iter().any(|option| matches!(option, DhcpOption::DomainNameServers(_))));
    assert_eq!(addresses(&reply), []);
}

#[test]
fn what_is_for_another_server_or_no_clients_message_is_passed_over() {
    let other = option(SERVER_ID, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
    for silent in [
        request(SOLICIT, &[ours(), ia(&[])]),
        request(REQUEST, &[ia(&[])]),
        request(REQUEST, &[other.clone(), ia(&[])]),
        request(RENEW, &[other, ia(&[own()])]),
        request(REBIND, &[ours(), ia(&[own()])]),
        request(INFORMATION_REQUEST, &[ia(&[])]),
        request(ADVERTISE, &[ours(), ia(&[])]),
        // A relay's.
        request(12, &[]),
        [vec![SOLICIT, 1, 2, 3], ia(&[])].concat(),
        [vec![SOLICIT, 1, 2, 3], option(CLIENT_ID, &[]), ia(&[])].concat(),
        [vec![SOLICIT, 1, 2, 3], option(CLIENT_ID, &[0; 131]), ia(&[])].concat(),
        [request(SOLICIT, &[]), vec![0, 3, 0, 12, 0]].concat(),
        [request(SOLICIT, &[]), option(IA_NA, &[0; 11])].concat(),
        [request(SOLICIT, &[]), option(IA_NA, &[&[0; 12][..], &option(IA_ADDRESS, &[0; 15])].concat())]
            .concat(),
        vec![SOLICIT, 1, 2],
        Vec::new(),
    ] {
        assert_eq!(respond(&facts(), CLIENT, &silent), None, "{silent:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_shortly_or_not_at_all(
        kind in 0_u8..14,
        options in prop::collection::vec(
            (prop_oneof![0_u16..30, any::<u16>()], prop::collection::vec(any::<u8>(), 0..40)), 0..12,
        ),
        rest in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let options: Vec<Vec<u8>> = options.iter().map(|(code, data)| option(*code, data)).collect();
        for request in [request(kind, &options), [request(kind, &options), rest.clone()].concat(), rest] {
            if let Some(answer) = respond(&facts(), CLIENT, &request) {
                prop_assert!(answer.len() < 1000, "{} bytes", answer.len());
                prop_assert_eq!(&answer[1..4], &request[1..4]);
                prop_assert!(Message::decode(&mut Decoder::new(&answer)).is_ok());
            }
        }
    }
}

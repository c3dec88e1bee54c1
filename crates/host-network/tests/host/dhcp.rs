//! DHCP as a guest sees it: frames written to and read from its TAP.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use host_network::{HostNetwork, NicAttachment, Tap, Teardown, VNET_HEADER_BYTES};
use vm_model::{MacAddress, VmId};

use crate::namespaces::{config, eventually, in_namespace, kept, nic};

const XID: u32 = 0x0bad_cafe;
const HEADER: usize = VNET_HEADER_BYTES as usize;

/// A broadcast frame of the guest `mac` with a DHCP message, behind an empty virtio-net header.
fn frame(mac: MacAddress, kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = Message::default();
    message.set_xid(XID).set_chaddr(&mac.octets());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    let mut payload = Vec::new();
    message.encode(&mut Encoder::new(&mut payload)).unwrap();

    let mut frame = vec![0; HEADER];
    frame.extend([0xff; 6]);
    frame.extend(mac.octets());
    frame.extend([0x08, 0x00]);
    let udp_bytes = u16::try_from(payload.len() + 8).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((udp_bytes + 20).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend([0, 0, 0, 0, 255, 255, 255, 255]);
    // The host checks this one before any socket sees the packet; the UDP checksum may be left out (RFC 768).
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
    frame.extend([0, 68, 0, 67]);
    frame.extend(udp_bytes.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

struct Answer {
    message: Message,
    to: [u8; 6],
    address: Ipv4Addr,
}

/// The next DHCP answer waiting on the TAP.
fn next_answer(tap: &Tap) -> Option<Answer> {
    let mut buffer = [0; 2048];
    loop {
        let length = rustix::io::read(tap.fds[0].as_fd(), &mut buffer).ok()?;
        let frame = &buffer[HEADER..length];
        let is_udp = frame.len() > 42 && frame[12..14] == [0x08, 0x00] && frame[14 + 9] == 17;
        if is_udp && frame[34..38] == [0, 67, 0, 68] {
            let message = Message::decode(&mut Decoder::new(&frame[42..])).unwrap();
            if message.xid() == XID {
                let address: [u8; 4] = frame[30..34].try_into().unwrap();
                return Some(Answer { message, to: frame[..6].try_into().unwrap(), address: address.into() });
            }
        }
    }
}

/// Sends until an answer comes: the first frames after a link came up may be lost, as on any network.
async fn ask(tap: &Tap, frame: &[u8]) -> Answer {
    eventually("a DHCP answer", async || {
        rustix::io::write(tap.fds[0].as_fd(), frame).expect("the TAP takes frames");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        next_answer(tap)
    })
    .await
}

fn drain(tap: &Tap) {
    while next_answer(tap).is_some() {}
}

#[test]
fn a_guest_is_told_its_address_on_its_tap() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let mac = nic(2).mac;
        let offer = ask(&tap, &frame(mac, MessageType::Discover, vec![])).await;
        assert_eq!(offer.message.opts().msg_type(), Some(MessageType::Offer));
        assert_eq!(offer.message.yiaddr(), nic(2).address);
        assert_eq!((offer.to, offer.address), (mac.octets(), nic(2).address));

        drain(&tap);
        let request = frame(
            mac,
            MessageType::Request,
            vec![
                DhcpOption::RequestedIpAddress(nic(2).address),
                DhcpOption::ServerIdentifier(config().gateway),
            ],
        );
        let ack = ask(&tap, &request).await.message;
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        for expected in [
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 0, 0)),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 100, 0, 1)]),
            DhcpOption::DomainNameServer(vec![Ipv4Addr::new(192, 0, 2, 53)]),
            DhcpOption::Hostname("vm-2".to_owned()),
            DhcpOption::AddressLeaseTime(30 * 24 * 3600),
            DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 100, 0, 1)),
        ] {
            assert_eq!(ack.opts().get(OptionCode::from(&expected)), Some(&expected));
        }

        drain(&tap);
        let wrong = vec![DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 100, 9, 9))];
        let nak = ask(&tap, &frame(mac, MessageType::Request, wrong)).await;
        assert_eq!(nak.message.opts().msg_type(), Some(MessageType::Nak));
        assert_eq!(nak.address, Ipv4Addr::BROADCAST);
    });
}

#[test]
fn a_guest_is_told_nothing_in_anothers_name_or_after_it_was_detached() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let first = network.attach(nic(2)).await.unwrap();
        let second = network.attach(nic(3)).await.unwrap();
        // Once each is answered, both ports forward and silence means something.
        for (tap, number) in [(&first, 2), (&second, 3)] {
            ask(tap, &frame(nic(number).mac, MessageType::Discover, vec![])).await;
            drain(tap);
        }
        let mut forged = frame(nic(3).mac, MessageType::Discover, vec![]);
        // The frame is the second guest's own; the message in it asks for the first one.
        let client_at = HEADER + 14 + 20 + 8 + 28;
        forged[client_at..client_at + 6].copy_from_slice(&nic(2).mac.octets());
        rustix::io::write(second.fds[0].as_fd(), &forged).unwrap();
        // The next honest answer shows that the forged message has been passed over.
        let honest = ask(&second, &frame(nic(3).mac, MessageType::Discover, vec![])).await;
        assert_eq!(honest.message.yiaddr(), nic(3).address);
        assert!(next_answer(&first).is_none());

        network.detach(&VmId::new("vm-2"), "net0").await.unwrap();
        drain(&second);
        rustix::io::write(second.fds[0].as_fd(), &frame(nic(2).mac, MessageType::Discover, vec![])).unwrap();
        let honest = ask(&second, &frame(nic(3).mac, MessageType::Discover, vec![])).await;
        assert_eq!(honest.message.yiaddr(), nic(3).address);
        assert_eq!(honest.message.chaddr(), nic(3).mac.octets());
    });
}

#[test]
fn the_mtu_is_told_when_it_is_not_the_usual_one() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let small = NicAttachment { mtu: Some(1400), ..nic(2) };
        let tap = network.attach(small).await.unwrap();
        let offer = ask(&tap, &frame(nic(2).mac, MessageType::Discover, vec![])).await;
        assert_eq!(offer.message.opts().get(OptionCode::InterfaceMtu), Some(&DhcpOption::InterfaceMtu(1400)));
    });
}

#[test]
fn the_mask_is_told_as_wished_and_the_router_stays_within_reach() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let told = |offer: &Message, code| offer.opts().get(code).cloned();
        let masked = |number, mask: [u8; 4]| NicAttachment { mask: Some(mask.into()), ..nic(number) };

        // 10.100.1.2 with this mask is on another network than 10.100.0.1.
        let tap = network.attach(masked(2, [255, 255, 255, 0])).await.unwrap();
        assert_eq!(
            tap.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "the mask 255.255.255.0 puts 10.100.1.2 and its router 10.100.0.1 on different networks: a guest reaches \
              beyond its own only if it follows the static routes that DHCP tells it (RFC 3442)"
            ]
        );
        let offer = ask(&tap, &frame(nic(2).mac, MessageType::Discover, vec![])).await.message;
        assert_eq!(
            told(&offer, OptionCode::SubnetMask),
            Some(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)))
        );
        assert_eq!(
            told(&offer, OptionCode::BroadcastAddr),
            Some(DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 100, 1, 255)))
        );
        let routes = vec![
            ("10.100.0.1/32".parse().unwrap(), Ipv4Addr::UNSPECIFIED),
            ("0.0.0.0/0".parse().unwrap(), Ipv4Addr::new(10, 100, 0, 1)),
        ];
        assert_eq!(
            told(&offer, OptionCode::ClasslessStaticRoute),
            Some(DhcpOption::ClasslessStaticRoute(routes))
        );

        let tap = network.attach(masked(3, [255, 0, 0, 0])).await.unwrap();
        assert_eq!(tap.warnings, []);
        let offer = ask(&tap, &frame(nic(3).mac, MessageType::Discover, vec![])).await.message;
        assert_eq!(
            told(&offer, OptionCode::SubnetMask),
            Some(DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 0, 0)))
        );
        assert_eq!(told(&offer, OptionCode::ClasslessStaticRoute), None);
    });
}

#[test]
fn a_guest_that_ran_on_renews_its_address_with_the_next_worker() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let mac = nic(2).mac;
        let lease = ask(&tap, &frame(mac, MessageType::Discover, vec![])).await;
        assert_eq!(lease.message.yiaddr(), nic(2).address);
        assert_eq!(
            lease.message.opts().get(OptionCode::Renewal),
            Some(&DhcpOption::Renewal(6 * 3600)),
            "long before the lease ends"
        );
        network.shutdown(Teardown::Keep).await.unwrap();
        drain(&tap);

        let network = HostNetwork::resume(config(), vec![kept(2, &tap.name)]).await.unwrap();
        assert_eq!(network.report().warnings, []);
        let again = || frame(mac, MessageType::Request, vec![DhcpOption::RequestedIpAddress(nic(2).address)]);
        let ack = ask(&tap, &again()).await.message;
        assert_eq!(
            (ack.opts().msg_type(), ack.yiaddr()),
            (Some(MessageType::Ack), nic(2).address),
            "it is the address that the guest had"
        );
        network.detach(&nic(2).vm, "net0").await.unwrap();
        let other = network.attach(nic(3)).await.unwrap();
        ask(&other, &frame(nic(3).mac, MessageType::Discover, vec![])).await;
        drain(&other);
        rustix::io::write(other.fds[0].as_fd(), &again()).unwrap();
        let honest = ask(&other, &frame(nic(3).mac, MessageType::Discover, vec![])).await.message;
        assert_eq!(honest.yiaddr(), nic(3).address, "one that was detached is answered no more");
    });
}

#[test]
fn one_guest_that_asks_without_a_pause_leaves_its_neighbour_its_answers() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let (mallory, alice) = (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        let flood = frame(nic(2).mac, MessageType::Discover, vec![]);
        let ask = frame(nic(3).mac, MessageType::Discover, vec![]);
        eventually("the wire is there", async || {
            rustix::io::write(alice.fds[0].as_fd(), &ask).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            next_answer(&alice)
        })
        .await;
        drain(&alice);
        let mut answered = 0_u32;
        for _ in 0..20 {
            for _ in 0..500 {
                rustix::io::write(mallory.fds[0].as_fd(), &flood).unwrap();
            }
            rustix::io::write(alice.fds[0].as_fd(), &ask).unwrap();
            eventually("an answer in the flood", async || {
                tokio::task::yield_now().await;
                next_answer(&alice)
            })
            .await;
            answered += 1;
        }
        assert_eq!(answered, 20);
        let mut told = 0_u32;
        while next_answer(&mallory).is_some() {
            told += 1;
        }
        assert!(told < 1000, "{told} of 10000 were answered");
    });
}

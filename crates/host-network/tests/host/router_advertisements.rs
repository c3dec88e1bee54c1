//! Router advertisements of a guest: the host believes none, in whatever they are wrapped.

use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use host_network::{HostNetwork, Tap, Teardown, VNET_HEADER_BYTES};

use crate::namespaces::{BRIDGE, config, eventually, in_namespace, link, nic, run};

const ICMP: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

fn guest() -> Ipv6Addr {
    "fe80::250:aff:fe64:102".parse().unwrap()
}

fn all_nodes() -> Ipv6Addr {
    "ff02::1".parse().unwrap()
}

/// A router advertisement (RFC 4861 §4.2) that offers a default route and the prefix 2001:db8:1::/64.
fn advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(1800_u16.to_be_bytes());
    message.extend([0; 8]);
    message.extend([3, 4, 64, 0xc0]);
    message.extend(86_400_u32.to_be_bytes());
    message.extend(43_200_u32.to_be_bytes());
    message.extend([0; 4]);
    message.extend("2001:db8:1::".parse::<Ipv6Addr>().unwrap().octets());
    let mut pseudo = guest().octets().to_vec();
    pseudo.extend(all_nodes().octets());
    pseudo.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    pseudo.extend([0, 0, 0, ICMP]);
    pseudo.extend(&message);
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next_header, 255]);
    packet.extend(guest().octets());
    packet.extend(all_nodes().octets());
    packet.extend(payload);
    packet
}

fn fragment(offset: usize, more: bool, piece: &[u8]) -> Vec<u8> {
    let place = u16::try_from(offset).unwrap() | u16::from(more);
    let mut payload = vec![ICMP, 0];
    payload.extend(place.to_be_bytes());
    payload.extend([0, 0, 0, 7]);
    payload.extend(piece);
    packet(FRAGMENT, &payload)
}

/// A wrapping: its name, what stands before the packets, and the packets.
type Wrapping = (&'static str, &'static [u8], Vec<Vec<u8>>);

/// The advertisement in each wrapping.
fn wrappings() -> Vec<Wrapping> {
    let plain = advertisement();
    let mut optioned = vec![ICMP, 0, 5, 2, 0, 0, 1, 0];
    optioned.extend(&plain);
    let (first, rest) = plain.split_at(24);
    let fragments = vec![fragment(0, true, first), fragment(24, false, rest)];
    vec![
        ("plain", &[], vec![packet(ICMP, &plain)]),
        ("with hop-by-hop options", &[], vec![packet(HOP_BY_HOP, &optioned)]),
        ("in fragments", &[], fragments),
        ("under a VLAN tag", &[0x81, 0x00, 0x00, 0x01], vec![packet(ICMP, &plain)]),
        ("under a priority tag", &[0x81, 0x00, 0x20, 0x00], vec![packet(ICMP, &plain)]),
    ]
}

fn send(tap: &Tap, tag: &[u8], packet: &[u8]) {
    let mut frame = vec![0; usize::from(VNET_HEADER_BYTES)];
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(nic(2).mac.octets());
    frame.extend(tag);
    frame.extend([0x86, 0xdd]);
    frame.extend(packet);
    rustix::io::write(tap.fds[0].as_fd(), &frame).expect("the TAP takes frames");
}

/// What the host has of IPv6: addresses and routes.
fn ipv6() -> String {
    format!("{}{}", run("ip -6 -o address show"), run("ip -6 route show table all"))
}

#[test]
fn the_host_believes_no_router_advertisement_of_a_guest() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        eventually("the port forwards", async || {
            let state = &link(tap.name.as_str())?["linkinfo"]["info_slave_data"]["state"];
            (state == "forwarding").then_some(())
        })
        .await;
        let before = ipv6();
        assert!(!before.contains(BRIDGE) && !before.contains(tap.name.as_str()), "{before}");
        for (name, tag, packets) in wrappings() {
            for packet in &packets {
                send(&tap, tag, packet);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(ipv6(), before, "{name}");
        }

        // The frame is one that a host believes unless it is told not to.
        network.shutdown(Teardown::Keep).await.unwrap();
        for setting in ["accept_ra=1", "autoconf=1", "disable_ipv6=0"] {
            run(&format!("sysctl -q net.ipv6.conf.{BRIDGE}.{setting}"));
        }
        eventually("a host without our settings believes it", async || {
            send(&tap, &[], &packet(ICMP, &advertisement()));
            ipv6().contains("2001:db8:1:").then_some(())
        })
        .await;
    });
}

#[test]
fn an_adopted_bridge_with_ipv6_keeps_it_and_is_given_back() {
    in_namespace(async || {
        let switch = |name: &str| run(&format!("sysctl -n net.ipv6.conf.{BRIDGE}.{name}"));
        run(&format!("ip link add {BRIDGE} type bridge"));
        run(&format!("ip link set {BRIDGE} up"));
        let before = (switch("disable_ipv6"), switch("accept_ra"), switch("accept_redirects"));
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!((switch("disable_ipv6"), switch("accept_ra")), ("1\n".to_owned(), "0\n".to_owned()));
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!((switch("disable_ipv6"), switch("accept_ra"), switch("accept_redirects")), before);

        run(&format!("ip address add 2001:db8:9::1/64 dev {BRIDGE} nodad"));
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(switch("disable_ipv6"), "0\n");
        assert!(run("ip -6 -o address show").contains("2001:db8:9::1"));
        let warnings: Vec<String> = network.report().warnings.iter().map(ToString::to_string).collect();
        assert!(
            warnings.iter().any(|warning| warning.contains("IPv6 address on the bridge")),
            "{warnings:?}"
        );
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

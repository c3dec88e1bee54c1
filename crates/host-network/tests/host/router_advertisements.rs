//! Router advertisements of a guest: the host believes none, in whatever they are wrapped.

use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use host_network::{HostNetwork, Tap, Teardown, VNET_HEADER_BYTES};

use crate::namespaces::{BRIDGE, config, eventually, in_namespace, link, nic, run};
use test_frames::{ALL_NODES, ethernet, fragment, icmpv6, ipv6, router_alert};

const ICMP: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

fn guest() -> Ipv6Addr {
    "fe80::50:aff:fe64:102".parse().unwrap()
}

/// A router advertisement (RFC 4861 §4.2) that offers a default route and the prefix 2001:db8:1::/64.
fn advertisement() -> Vec<u8> {
    // Reachable time and retransmission timer; then the prefix option: 64 bits, on link and for autoconfiguration.
    let mut body = vec![0; 8];
    body.extend([3, 4, 64, 0xc0]);
    body.extend(86_400_u32.to_be_bytes());
    body.extend(43_200_u32.to_be_bytes());
    body.extend([0; 4]);
    body.extend("2001:db8:1::".parse::<Ipv6Addr>().unwrap().octets());
    let [high, low] = 1800_u16.to_be_bytes();
    icmpv6(guest(), ALL_NODES, 134, [64, 0, high, low], &body)
}

fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(guest(), ALL_NODES, next_header, payload)
}

/// A wrapping: its name, what stands before the packets, and the packets.
type Wrapping = (&'static str, &'static [u8], Vec<Vec<u8>>);

/// The advertisement in each wrapping.
fn wrappings() -> Vec<Wrapping> {
    let plain = advertisement();
    let optioned = router_alert(ICMP, &plain);
    let (first, rest) = plain.split_at(24);
    let pieces = vec![
        packet(FRAGMENT, &fragment(ICMP, 0, true, first)),
        packet(FRAGMENT, &fragment(ICMP, 24, false, rest)),
    ];
    vec![
        ("plain", &[], vec![packet(ICMP, &plain)]),
        ("with hop-by-hop options", &[], vec![packet(HOP_BY_HOP, &optioned)]),
        ("in fragments", &[], pieces),
        ("under a VLAN tag", &[0x81, 0x00, 0x00, 0x01], vec![packet(ICMP, &plain)]),
        ("under a priority tag", &[0x81, 0x00, 0x20, 0x00], vec![packet(ICMP, &plain)]),
    ]
}

fn send(tap: &Tap, tag: &[u8], packet: &[u8]) {
    let mut bytes = vec![0; usize::from(VNET_HEADER_BYTES)];
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], nic(2).mac.octets(), 0x86dd, packet);
    frame.splice(12..12, tag.iter().copied());
    bytes.extend(frame);
    rustix::io::write(tap.fds[0].as_fd(), &bytes).expect("the TAP takes frames");
}

/// What the host has of IPv6: addresses and routes.
fn ipv6_of_host() -> String {
    format!("{}{}", run("ip -6 -o address show"), run("ip -6 route show table all"))
}

/// Sends the advertisement in each wrapping; the host's IPv6 stays as it was `before`.
async fn send_all_and_compare(tap: &Tap, before: &str) {
    for (name, tag, packets) in wrappings() {
        for packet in &packets {
            send(tap, tag, packet);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(ipv6_of_host(), before, "{name}");
    }
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
        let before = ipv6_of_host();
        assert!(!before.contains(BRIDGE) && !before.contains(tap.name.as_str()), "{before}");
        send_all_and_compare(&tap, &before).await;

        // Where the packet filter is gone, the host's own settings stand against it.
        network.shutdown(Teardown::Keep).await.unwrap();
        run("nft flush ruleset");
        send_all_and_compare(&tap, &before).await;

        // The frame is one that a host believes unless it is told not to.
        for setting in ["accept_ra=1", "autoconf=1", "disable_ipv6=0"] {
            run(&format!("sysctl -q net.ipv6.conf.{BRIDGE}.{setting}"));
        }
        eventually("a host without our settings believes it", async || {
            send(&tap, &[], &packet(ICMP, &advertisement()));
            ipv6_of_host().contains("2001:db8:1:").then_some(())
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

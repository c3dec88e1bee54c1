//! What a guest leaves of the host's table of connections to others, with frames as a hostile guest sends them. Each network
//! namespace has a table of its own, so it is counted exactly.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::time::Duration;

use host_network::{
    ConnectionLimit, HostNetwork, NetworkConfig, NicAttachment, Tap, Teardown, VNET_HEADER_BYTES,
};
use test_frames::{ethernet, ipv4, tcp_syn, udp};
use vm_model::NetworkAccess;

use crate::egress::{beyond, connects};
use crate::forwards::{guest, with_ports};
use crate::names::with_names;
use crate::namespaces::{BRIDGE, config, eventually, in_namespace, mac_of, nic, run};

/// The guest that misbehaves, and its neighbour.
const MALLORY: u8 = 2;
const ALICE: u8 = 3;
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const LIMIT: u32 = 100;
/// Each of so many frames would begin a connection.
const FLOOD: u16 = 20_000;

fn limited() -> NetworkConfig {
    let connections = ConnectionLimit::AtMost(NonZeroU32::new(LIMIT).unwrap());
    NetworkConfig { connections, ..config() }
}

/// How many entries the host's table has.
fn entries() -> u32 {
    fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap().trim().parse().unwrap()
}

fn send(tap: &Tap, frame: &[u8]) {
    let bytes = [&[0; VNET_HEADER_BYTES as usize][..], frame].concat();
    rustix::io::write(tap.fds[0].as_fd(), &bytes).expect("the TAP takes frames");
}

/// Mallory's packet, by way of the router.
fn routed(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let NicAttachment { mac, address, .. } = nic(MALLORY);
    ethernet(mac_of(BRIDGE), mac.octets(), 0x0800, &ipv4(address, to, protocol, payload))
}

/// Sends [`FLOOD`] datagrams, each of another connection.
fn flood(tap: &Tap, to: Ipv4Addr) {
    let mut frame = routed(to, 17, &udp(0, 9, b""));
    for port in 1024..1024 + FLOOD {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        send(tap, &frame);
    }
}

/// Waits until the port of `tap` forwards: its frames reach the host.
async fn forwarding(tap: &Tap) {
    eventually("the port forwards", async || {
        send(tap, &routed(BEYOND, 17, &udp(7, 7, b"")));
        (entries() > 0).then_some(())
    })
    .await;
}

#[test]
fn a_guest_that_opens_connections_without_end_leaves_others_theirs() {
    in_namespace(async || {
        run("ip link set lo up");
        let _beyond = beyond().await;
        let network = HostNetwork::start(limited()).await.unwrap();
        assert_eq!(network.report().warnings, []);
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let alice = network.attach(nic(ALICE)).await.unwrap();
        let neighbour = guest(&alice, ALICE).await;
        forwarding(&mallory).await;
        flood(&mallory, BEYOND);
        assert!((LIMIT / 2..=LIMIT + 10).contains(&entries()), "{} entries", entries());
        assert!(connects(&neighbour.host, "198.51.100.2:80").await, "its neighbour is not limited by that");
        let rules = run("nft list chain ip procurator-br-test by_guest");
        assert!(
            rules.lines().any(|rule| rule.contains("one VM") && !rule.contains("packets 0 bytes")),
            "{rules}"
        );
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn packets_of_one_connection_are_not_connections() {
    in_namespace(async || {
        let beyond = beyond().await;
        let network = HostNetwork::start(limited()).await.unwrap();
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let heard = beyond.on(|| UdpSocket::bind("0.0.0.0:9000").unwrap()).await;
        heard.set_nonblocking(true).unwrap();
        eventually("the way is there", async || {
            send(&mallory, &routed(BEYOND, 17, &udp(9, 9000, b"")));
            heard.recv(&mut [0]).ok()
        })
        .await;
        // Nobody answers, so each is as new to the kernel as the first.
        let frame = routed(BEYOND, 17, &udp(9, 9000, b""));
        for _ in 0..10 * LIMIT {
            send(&mallory, &frame);
            eventually("a datagram", async || heard.recv(&mut [0]).ok()).await;
        }
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn what_is_dropped_or_stays_on_the_bridge_is_no_connection() {
    in_namespace(async || {
        run("ip link set lo up");
        let _beyond = beyond().await;
        let network = HostNetwork::start(limited()).await.unwrap();
        let access =
            NetworkAccess { egress: Some(vec!["203.0.113.2".parse().unwrap()]), ..Default::default() };
        let mallory = network.attach(NicAttachment { access, ..nic(MALLORY) }).await.unwrap();
        let _alice = network.attach(nic(ALICE)).await.unwrap();
        eventually("the port forwards", async || {
            send(&mallory, &routed("203.0.113.2".parse().unwrap(), 17, &udp(7, 7, b"")));
            (entries() > 0).then_some(())
        })
        .await;
        let before = entries();
        // Beyond its list, to a port of the host that is closed, by the router to its neighbour, to the name server.
        for to in [BEYOND, "198.51.100.1".parse().unwrap(), nic(ALICE).address, GATEWAY] {
            flood(&mallory, to);
            assert!(entries() <= before, "{} entries after {to}", entries());
        }
        let NicAttachment { mac, address, .. } = nic(MALLORY);
        for port in 1..FLOOD {
            let packet = ipv4(address, nic(ALICE).address, 17, &udp(port, 9, b""));
            send(&mallory, &ethernet(nic(ALICE).mac.octets(), mac.octets(), 0x0800, &packet));
        }
        assert!(entries() <= before, "{} entries by the bridge", entries());
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn connections_to_a_guest_are_counted_apart_from_its_own() {
    in_namespace(async || {
        let beyond = beyond().await;
        let network = HostNetwork::start(limited()).await.unwrap();
        let mallory = network.attach(with_ports(MALLORY, &["5353:53/udp"])).await.unwrap();
        forwarding(&mallory).await;
        run(&format!(
            "ip neighbour replace {} lladdr {} dev {BRIDGE}",
            nic(MALLORY).address,
            nic(MALLORY).mac
        ));
        beyond
            .on(|| {
                for _ in 0..5 * LIMIT {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.send_to(b"?", "198.51.100.1:5353").unwrap();
                }
            })
            .await;
        let inbound = entries();
        assert!((LIMIT / 2..=LIMIT + 20).contains(&inbound), "{inbound} entries to it");
        flood(&mallory, BEYOND);
        assert!(entries() > inbound + LIMIT / 2, "it still opens its own: {} entries", entries());
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn connections_end_with_their_vm_and_lead_to_the_next_one() {
    in_namespace(async || {
        let beyond = beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let client = beyond.on(|| UdpSocket::bind("198.51.100.2:7000").unwrap()).await;
        for number in [MALLORY, ALICE] {
            let tap = network.attach(with_ports(number, &["5353:53/udp"])).await.unwrap();
            run(&format!(
                "ip neighbour replace {} lladdr {} dev {BRIDGE}",
                nic(number).address,
                nic(number).mac
            ));
            // It goes on from one port.
            eventually("the guest hears its client", async || {
                client.send_to(b"the client says", "198.51.100.1:5353").unwrap();
                let mut buffer = [0; 4096];
                while let Ok(length) = rustix::io::read(tap.fds[0].as_fd(), &mut buffer) {
                    if buffer[..length].ends_with(b"the client says") {
                        return Some(());
                    }
                }
                None
            })
            .await;
            send(&tap, &routed(BEYOND, 17, &udp(7, 7, b"")));
            assert!(entries() > 0);
            network.detach(&nic(number).vm, "net0").await.unwrap();
            assert_eq!(entries(), 0, "all of them were of that VM");
        }
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_guest_opens_few_connections_a_second_to_the_name_server() {
    in_namespace(async || {
        run("ip link set lo up");
        let network = HostNetwork::start(with_names()).await.unwrap();
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let address = nic(MALLORY).address;
        run(&format!("ip neighbour replace {address} lladdr {} dev {BRIDGE}", nic(MALLORY).mac));
        let answered = || {
            let (mut count, mut buffer) = (0, [0; 4096]);
            while let Ok(length) = rustix::io::read(mallory.fds[0].as_fd(), &mut buffer) {
                let header = usize::from(VNET_HEADER_BYTES);
                count += u32::from(buffer[..length].get(header + 23) == Some(&6));
            }
            count
        };
        let (router, own) = (mac_of(BRIDGE), nic(MALLORY).mac.octets());
        let ask = |port| {
            let packet = ipv4(address, GATEWAY, 6, &tcp_syn((address, port), (GATEWAY, 53)));
            send(&mallory, &ethernet(router, own, 0x0800, &packet));
        };
        eventually("the name server is there", async || {
            ask(999);
            tokio::time::sleep(Duration::from_millis(5)).await;
            (answered() > 0).then_some(())
        })
        .await;
        let mut heard = 0;
        for port in 1024..1024 + FLOOD {
            ask(port);
            heard += answered();
        }
        assert!(heard < 2000, "{heard} of {FLOOD} were answered");
        let rules = run("nft list chain bridge procurator-br-test from_guest_ipv4");
        let limit = rules.lines().find(|rule| rule.contains("too many connections for names")).unwrap();
        assert!(!limit.contains("packets 0 bytes"), "{limit}");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

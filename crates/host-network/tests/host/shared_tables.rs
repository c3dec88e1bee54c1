//! What a guest leaves to others of the tables that the host's kernel has once for all: neighbours, and the memory in which fragments
//! wait for each other. Each is counted in the namespace of the test while frames come in as a hostile guest sends them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use host_network::{HostNetwork, NetworkConfig, Tap, Teardown, VNET_HEADER_BYTES};
use test_frames::{ethernet, ipv4, ipv4_fragment, ipv6, udp};

use crate::egress::{beyond, connects};
use crate::forwards::guest;
use crate::guest::Guest;
use crate::namespaces::{BRIDGE, config, eventually, in_namespace, mac_of, nic, run};

/// The guest that misbehaves, and its neighbour.
const MALLORY: u8 = 2;
const ALICE: u8 = 3;
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FLOOD: u16 = 5000;

/// A host with a wide network of its own at `lan`, a guest that misbehaves, and its neighbour with an address and a way out.
struct Setting {
    network: HostNetwork,
    mallory: Tap,
    alice: Guest,
    router: [u8; 6],
    _alices_wire: Tap,
}

impl Setting {
    async fn new(config: NetworkConfig) -> Self {
        run("ip link set lo up");
        run("ip link add lan type veth peer name nobody");
        run("ip link set nobody up");
        run("ip link set lan up");
        run("ip address add 10.200.0.1/16 dev lan");
        run("ip -6 address add fd99::1/64 dev lan nodad");
        let network = HostNetwork::start(config).await.unwrap();
        assert_eq!(network.report().warnings, []);
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let wire = network.attach(nic(ALICE)).await.unwrap();
        let alice = guest(&wire, ALICE).await;
        eventually("the router", async || {
            alice.host.run(&["busybox", "ping", "-c", "1", "-W", "1", "10.100.0.1"]).await.ok()
        })
        .await;
        Self { network, mallory, alice, router: mac_of(BRIDGE), _alices_wire: wire }
    }

    fn send(&self, frame: &[u8]) {
        let bytes = [&[0; VNET_HEADER_BYTES as usize][..], frame].concat();
        rustix::io::write(self.mallory.fds[0].as_fd(), &bytes).expect("the TAP takes frames");
    }

    /// Has the host pass a packet on, or take it.
    fn to_router(&self, kind: u16, packet: &[u8]) {
        self.send(&ethernet(self.router, nic(MALLORY).mac.octets(), kind, packet));
    }
}

/// How many neighbours the host knows of or asks for on `link`.
fn neighbours(link: &str) -> usize {
    run(&format!("ip neigh show nud all dev {link}")).lines().filter(|line| !line.contains("NOARP")).count()
}

/// What passes in the time since `start` of something that passes `rate` times a second and `burst` at once.
fn allowance(start: Instant, rate: u64, burst: u64) -> usize {
    usize::try_from(burst + rate * (start.elapsed().as_secs() + 1)).unwrap()
}

#[test]
fn a_guest_does_not_fill_the_hosts_table_of_neighbours() {
    in_namespace(async || {
        // Before: a link that comes later has the tables made again, and all counting begins anew.
        let _beyond = beyond().await;
        let setting = Setting::new(config()).await;
        let own = nic(MALLORY).address;
        let flood = |first: u8, second: u8| {
            for number in 1..FLOOD {
                let [third, fourth] = number.to_be_bytes();
                let packet = ipv4(own, [first, second, 100 + third, fourth].into(), 17, &udp(9, 9, b""));
                setting.to_router(0x0800, &packet);
            }
        };
        let start = Instant::now();
        flood(10, 100);
        // The guests themselves, one of whom is told that there is a shorter way.
        assert!(neighbours(BRIDGE) <= 2, "addresses that nobody has: {}", run("ip neigh"));
        flood(10, 200);
        let (asked, allowed) = (neighbours("lan"), allowance(start, 16, 32));
        assert!((16..=allowed).contains(&asked), "{asked} neighbours beside the network, of {allowed}");
        eventually("its neighbour's connection", async || {
            connects(&setting.alice.host, "198.51.100.2:80").await.then_some(())
        })
        .await;
        for (chain, rule) in [("no_guest", "no VM has"), ("new_next_hop", "one VM looks")] {
            let rules = run(&format!("nft list chain ip procurator-br-test {chain}"));
            let rule = rules.lines().find(|line| line.contains(rule)).unwrap();
            assert!(!rule.contains("packets 0 bytes"), "{rule}");
        }
        setting.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn nor_that_of_ipv6() {
    in_namespace(async || {
        let subnet: vm_model::Ipv6Subnet = "fd12:3456:789a::/64".parse().unwrap();
        let setting = Setting::new(NetworkConfig { ipv6: Some(subnet), ..config() }).await;
        let own = subnet.address_of(nic(MALLORY).mac);
        let flood = |prefix: u16| {
            for number in 1..FLOOD {
                let to = Ipv6Addr::new(prefix, 0, 0, 0, 0, 7, 7, number);
                let to = if prefix == 0xfd12 {
                    Ipv6Addr::from(u128::from(subnet.gateway()) + u128::from(number))
                } else {
                    to
                };
                setting.to_router(0x86dd, &ipv6(own, to, 17, &udp(9, 9, b"")));
            }
        };
        let start = Instant::now();
        flood(0xfd12);
        // Guests that are there, and that it asked for itself.
        assert!(neighbours(BRIDGE) <= 6, "{}", run("ip neigh show nud all"));
        flood(0xfd99);
        let (asked, allowed) = (neighbours("lan"), allowance(start, 16, 32));
        assert!((16..=allowed).contains(&asked), "{asked} neighbours beside the network, of {allowed}");
        setting.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn guests_reach_each_other_by_way_of_the_router() {
    in_namespace(async || {
        let setting = Setting::new(config()).await;
        let heard = setting.alice.host.on(|| UdpSocket::bind("0.0.0.0:9000").unwrap()).await;
        heard.set_nonblocking(true).unwrap();
        let packet = ipv4(nic(MALLORY).address, nic(ALICE).address, 17, &udp(9, 9000, b"by the router"));
        eventually("its neighbour hears", async || {
            setting.to_router(0x0800, &packet);
            heard.recv(&mut [0; 64]).ok()
        })
        .await;
        setting.network.detach(&nic(MALLORY).vm, "net0").await.unwrap();
        let guests = run("nft list set ip procurator-br-test guests");
        assert!(guests.contains("10.100.1.3") && !guests.contains("10.100.1.2"), "{guests}");
        setting.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// How many packets the host has to put together, and the bytes that their pieces take.
fn fragments() -> (usize, usize) {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("FRAG:")).unwrap();
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn a_guest_does_not_fill_the_memory_for_fragments() {
    in_namespace(async || {
        let beyond = beyond().await;
        let setting = Setting::new(config()).await;
        let heard = beyond.on(|| UdpSocket::bind("0.0.0.0:9000").unwrap()).await;
        heard.set_nonblocking(true).unwrap();
        let memory: usize =
            fs::read_to_string("/proc/sys/net/ipv4/ipfrag_high_thresh").unwrap().trim().parse().unwrap();
        let own = nic(MALLORY).address;
        let piece =
            |to: Ipv4Addr, id: u16| ipv4_fragment(ipv4(own, to, 17, &udp(9, 9000, &[7; 1400])), id, 0, true);
        let start = Instant::now();
        for id in 1..FLOOD {
            // By way of the router, and to the host itself.
            for to in [BEYOND, Ipv4Addr::new(10, 100, 0, 1)] {
                setting.to_router(0x0800, &piece(to, id));
            }
        }
        let ((packets, bytes), allowed) = (fragments(), allowance(start, 4, 180));
        assert!((50..=allowed).contains(&packets), "{packets} packets wait for pieces, of {allowed}");
        assert!(bytes <= memory / 2, "{bytes} of {memory} bytes");
        let longer = ipv4_fragment(ipv4(own, BEYOND, 17, &udp(9, 9000, &[7; 60_000])), 7, 0, true);
        setting.to_router(0x0800, &longer);
        assert!(fragments().1 <= bytes + 8192, "a piece that is longer than a frame is not taken");
        eventually("its neighbour's datagram of three pieces arrives", async || {
            setting
                .alice
                .host
                .on(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[8; 4000], (BEYOND, 9000)).unwrap())
                .await;
            heard.recv(&mut [0; 8192]).ok().filter(|length| *length == 4000)
        })
        .await;
        setting.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn fragments_between_guests_stay_on_the_bridge() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let alice = network.attach(nic(ALICE)).await.unwrap();
        let send = |id: u16| {
            let packet = ipv4(nic(MALLORY).address, nic(ALICE).address, 17, &udp(9, 9, &[7; 1000]));
            let packet = ipv4_fragment(packet, id, 0, true);
            let frame = ethernet(nic(ALICE).mac.octets(), nic(MALLORY).mac.octets(), 0x0800, &packet);
            let bytes = [&[0; VNET_HEADER_BYTES as usize][..], &frame].concat();
            rustix::io::write(mallory.fds[0].as_fd(), &bytes).expect("the TAP takes frames");
        };
        let hears = |id: u16| {
            let mut buffer = [0; 4096];
            while let Ok(length) = rustix::io::read(alice.fds[0].as_fd(), &mut buffer) {
                let at = usize::from(VNET_HEADER_BYTES) + 18;
                if buffer[..length].get(at..at + 2) == Some(&id.to_be_bytes()) {
                    return true;
                }
            }
            false
        };
        eventually("the ports forward", async || {
            send(1);
            hears(1).then_some(())
        })
        .await;
        for id in 2..FLOOD {
            send(id);
            assert!(hears(id), "piece {id} is lost");
        }
        assert_eq!(fragments(), (0, 0));
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

//! What a guest cannot do to its neighbours and its host by what it sends: each frame is written into a TAP as a hostile
//! guest would, and looked for at the neighbour's.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use host_network::{BetweenVms, HostNetwork, Tap, Teardown, VNET_HEADER_BYTES};

use test_frames::{self as frames, ALL_NODES, BROADCAST, Mac, arp, ethernet, icmpv6, ipv4, ipv6, udp};

use crate::namespaces::{BRIDGE, config, eventually, in_namespace, mac_of, nic, run};

const HEADER: usize = VNET_HEADER_BYTES as usize;
/// The guest that misbehaves, its neighbour, and somebody who is not there.
const MALLORY: u8 = 2;
const ALICE: u8 = 3;
const NOBODY: u8 = 9;

fn mac(number: u8) -> Mac {
    nic(number).mac.octets()
}

fn address(number: u8) -> Ipv4Addr {
    nic(number).address
}

fn link_local(number: u8) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac(number);
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Two guests on a bridge, seen from their TAPs.
struct Wires {
    network: HostNetwork,
    mallory: Tap,
    alice: Tap,
    sentinels: u16,
}

impl Wires {
    async fn new(between_vms: BetweenVms) -> Self {
        let network =
            HostNetwork::start(host_network::NetworkConfig { between_vms, ..config() }).await.unwrap();
        let mallory = network.attach(nic(MALLORY)).await.unwrap();
        let alice = network.attach(nic(ALICE)).await.unwrap();
        let mut wires = Self { network, mallory, alice, sentinels: 0 };
        if between_vms == BetweenVms::Open {
            eventually("the ports forward", async || wires.try_pass(&[]).map(|_| ())).await;
        }
        wires
    }

    fn send(&self, frame: &[u8]) {
        let mut bytes = vec![0; HEADER];
        bytes.extend(frame);
        rustix::io::write(self.mallory.fds[0].as_fd(), &bytes).expect("the TAP takes frames");
    }

    /// The next frame that the neighbour gets.
    fn received(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        let length = rustix::io::read(self.alice.fds[0].as_fd(), &mut buffer).ok()?;
        Some(buffer[HEADER..length].to_vec())
    }

    /// Whether the neighbour gets `frame`: a good frame is sent after it, and what arrives before that one is looked at.
    /// `None` if that one does not arrive either.
    fn try_pass(&mut self, frame: &[u8]) -> Option<bool> {
        if !frame.is_empty() {
            self.send(frame);
        }
        self.sentinels += 1;
        let sentinel = ethernet(
            mac(ALICE),
            mac(MALLORY),
            0x0800,
            &ipv4(address(MALLORY), address(ALICE), 17, &udp(1, self.sentinels, b"sentinel")),
        );
        self.send(&sentinel);
        let mut passed = false;
        // Frames go from one TAP to another within the call that sends them.
        while let Some(received) = self.received() {
            passed |= received == frame;
            if received == sentinel {
                return Some(passed);
            }
        }
        None
    }

    fn passes(&mut self, frame: &[u8]) -> bool {
        self.try_pass(frame).expect("a good frame arrives")
    }
}

/// IPv6 packets as a guest of these tests sends them: from, to, the next header and what follows.
fn six(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet([0x33, 0x33, 0, 0, 0, 1], mac(MALLORY), 0x86dd, &ipv6(from, to, next, payload))
}

/// A report of what groups a guest listens to, which has an extension header and is to have one hop to live (RFC 3810).
fn listener_report(from: Ipv6Addr, to: Ipv6Addr, hops: u8) -> Vec<u8> {
    let report = icmpv6(from, to, 143, [0; 4], &[0; 4]);
    let mut frame = six(from, to, 0, &frames::router_alert(58, &report));
    frame[14 + 7] = hops;
    frame
}

fn four(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(mac(ALICE), mac(MALLORY), 0x0800, &ipv4(from, to, protocol, payload))
}

#[test]
fn a_guest_says_what_is_its_own_to_say() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let (own, six_own) = (address(MALLORY), link_local(MALLORY));
        let asks = icmpv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 135, [0; 4], &link_local(MALLORY).octets());
        let tells = icmpv6(six_own, ALL_NODES, 136, [0; 4], &six_own.octets());
        for (what, frame) in [
            ("IPv4", four(own, address(ALICE), 17, &udp(1000, 1000, b"hello"))),
            (
                "an ARP request",
                ethernet(BROADCAST, mac(MALLORY), 0x0806, &arp(1, mac(MALLORY), own, address(ALICE))),
            ),
            (
                "an ARP probe",
                ethernet(BROADCAST, mac(MALLORY), 0x0806, &arp(1, mac(MALLORY), Ipv4Addr::UNSPECIFIED, own)),
            ),
            (
                "a DHCP client",
                ethernet(
                    BROADCAST,
                    mac(MALLORY),
                    0x0800,
                    &ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &udp(68, 67, &[0; 240])),
                ),
            ),
            ("duplicate address detection", six(Ipv6Addr::UNSPECIFIED, ALL_NODES, 58, &asks)),
            ("its neighbour advertisement", six(six_own, ALL_NODES, 58, &tells)),
            ("a listener report", listener_report(six_own, ALL_NODES, 1)),
            ("one before it has an address", listener_report(Ipv6Addr::UNSPECIFIED, ALL_NODES, 1)),
            ("IPv6 of its own", six(six_own, ALL_NODES, 17, &udp(5353, 5353, b"mdns"))),
        ] {
            assert!(wires.passes(&frame), "{what}");
        }
    });
}

#[test]
fn a_guest_cannot_speak_for_another() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let (own, six_own) = (address(MALLORY), link_local(MALLORY));
        let (gateway, six_alice) = (Ipv4Addr::new(10, 100, 0, 1), link_local(ALICE));
        let good = ipv4(own, address(ALICE), 17, &udp(1, 1, b""));
        let poison = icmpv6(six_own, ALL_NODES, 136, [0; 4], &six_alice.octets());
        for (what, frame) in [
            ("another's MAC", ethernet(mac(ALICE), mac(NOBODY), 0x0800, &good)),
            ("the bridge's MAC", ethernet(mac(ALICE), mac_of(BRIDGE), 0x0800, &good)),
            ("another's IPv4", four(address(NOBODY), address(ALICE), 17, &udp(1, 1, b""))),
            ("the gateway's IPv4", four(gateway, address(ALICE), 17, &udp(1, 1, b""))),
            ("no IPv4 of its own", four(Ipv4Addr::UNSPECIFIED, address(ALICE), 17, &udp(1, 1, b""))),
            (
                "ARP for the gateway",
                ethernet(mac(ALICE), mac(MALLORY), 0x0806, &arp(2, mac(MALLORY), gateway, address(ALICE))),
            ),
            (
                "ARP with another's MAC inside",
                ethernet(BROADCAST, mac(MALLORY), 0x0806, &arp(2, mac(NOBODY), own, address(ALICE))),
            ),
            ("another's IPv6", six(six_alice, ALL_NODES, 17, &udp(1, 1, b""))),
            ("a global IPv6", six("2001:db8::1".parse().unwrap(), ALL_NODES, 17, &udp(1, 1, b""))),
            ("a neighbour advertisement for another", six(six_own, ALL_NODES, 58, &poison)),
            ("a listener report of another", listener_report(six_alice, ALL_NODES, 1)),
            ("a listener report to one machine", listener_report(six_own, six_alice, 1)),
            ("a listener report that travels", listener_report(six_own, ALL_NODES, 255)),
        ] {
            assert!(!wires.passes(&frame), "{what}");
        }
        let counted = run("nft list table bridge procurator-br-test");
        assert!(!counted.contains("packets 0 bytes 0 drop comment \"another's MAC address\""), "{counted}");
    });
}

#[test]
fn a_guest_cannot_play_router_or_dhcp_server() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let (own, six_own) = (address(MALLORY), link_local(MALLORY));
        let offer = udp(67, 68, &[2; 240]);
        let advertisement = icmpv6(six_own, ALL_NODES, 134, [64, 0, 0, 30], &[0; 8]);
        let redirect = icmpv6(six_own, ALL_NODES, 137, [0; 4], &[0; 36]);
        let frames = [
            ("a DHCP offer", four(own, address(ALICE), 17, &offer)),
            (
                "a DHCP offer to all",
                ethernet(BROADCAST, mac(MALLORY), 0x0800, &ipv4(own, Ipv4Addr::BROADCAST, 17, &offer)),
            ),
            (
                "a DHCP offer behind options",
                ethernet(
                    mac(ALICE),
                    mac(MALLORY),
                    0x0800,
                    &frames::ipv4_with_options(own, address(ALICE), 17, &offer),
                ),
            ),
            ("a DHCPv6 advertisement", six(six_own, ALL_NODES, 17, &udp(547, 546, &[2; 40]))),
            ("a router advertisement", six(six_own, ALL_NODES, 58, &advertisement)),
            ("a redirect", six(six_own, ALL_NODES, 58, &redirect)),
            ("one behind options", six(six_own, ALL_NODES, 0, &frames::router_alert(58, &advertisement))),
            (
                "one behind destination options",
                six(six_own, ALL_NODES, 60, &frames::router_alert(58, &advertisement)),
            ),
            (
                "one as a whole fragment",
                six(six_own, ALL_NODES, 44, &frames::fragment(58, 0, false, &advertisement)),
            ),
            (
                "the first piece of one",
                six(six_own, ALL_NODES, 44, &frames::fragment(58, 0, true, &advertisement[..8])),
            ),
            (
                "the rest of one",
                six(six_own, ALL_NODES, 44, &frames::fragment(58, 8, false, &advertisement[8..])),
            ),
        ];
        for (what, frame) in frames {
            assert!(!wires.passes(&frame), "{what}");
        }
    });
}

#[test]
fn a_guest_cannot_speak_below_or_beside_ip() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let six_own = link_local(MALLORY);
        let advertisement = icmpv6(six_own, ALL_NODES, 134, [64, 0, 0, 30], &[0; 8]);
        let tagged = |tag: [u8; 4]| {
            let mut frame = six(six_own, ALL_NODES, 58, &advertisement);
            frame.splice(12..12, tag);
            frame
        };
        for (what, frame) in [
            ("a router advertisement under a VLAN tag", tagged([0x81, 0, 0, 5])),
            ("one under a priority tag", tagged([0x81, 0, 0x20, 0])),
            ("one under a provider's tag", tagged([0x88, 0xa8, 0, 5])),
            (
                "a spanning tree frame",
                ethernet([1, 0x80, 0xc2, 0, 0, 0], mac(MALLORY), 38, &[0x42, 0x42, 3, 0, 0, 0, 0]),
            ),
            ("an unknown protocol", ethernet(mac(ALICE), mac(MALLORY), 0x88b5, b"experimental")),
        ] {
            assert!(!wires.passes(&frame), "{what}");
        }
    });
}

#[test]
fn a_guest_does_not_get_past_the_hosts_rules_by_a_group_of_bridges() {
    in_namespace(async || {
        let wires = Wires::new(BetweenVms::Open).await;
        let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
        socket.set_nonblocking(true).unwrap();
        let gateway = Ipv4Addr::new(10, 100, 0, 1);
        let datagram = ipv4(address(MALLORY), gateway, 17, &udp(9000, 9000, b"closed"));
        // Bridges hand such frames to the port itself, past what is said of the bridge.
        for last in 0..16 {
            wires.send(&ethernet([1, 0x80, 0xc2, 0, 0, last], mac(MALLORY), 0x0800, &datagram));
        }
        let got = socket.recv(&mut [0; 100]);
        assert!(got.is_err(), "the host got {got:?} bytes");
        let counted = run("nft list chain ip procurator-br-test input");
        assert!(
            !counted.contains("packets 0 bytes 0 drop comment \"for a group that no bridge passes on\""),
            "{counted}"
        );
    });
}

#[test]
fn floods_leave_nothing_behind_and_are_cut() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let known = || run(&format!("bridge fdb show br {BRIDGE}")).lines().count();
        let before = known();
        for number in 0_u32..20_000 {
            let [a, b, c, d] = number.to_be_bytes();
            wires.send(&ethernet(mac(ALICE), [2, a, b, c, d, 1], 0x0800, b"nobody is this"));
        }
        assert_eq!(known(), before, "the bridge has learnt addresses");

        let shout = ethernet(
            BROADCAST,
            mac(MALLORY),
            0x0800,
            &ipv4(address(MALLORY), Ipv4Addr::BROADCAST, 17, &udp(9, 9, b"shout")),
        );
        let mut heard = 0_u32;
        for _ in 0..20_000 {
            wires.send(&shout);
            while let Some(received) = wires.received() {
                heard += u32::from(received == shout);
            }
        }
        assert!((1000..10_000).contains(&heard), "{heard} of 20000 broadcasts arrived");
        let whisper = four(address(MALLORY), address(ALICE), 17, &udp(9, 9, b"to one"));
        assert!(wires.passes(&whisper), "what goes to one passes meanwhile");
    });
}

#[test]
fn frames_go_to_their_addressee_alone() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Open).await;
        let bob = wires.network.attach(nic(4)).await.unwrap();
        while rustix::io::read(bob.fds[0].as_fd(), &mut [0; 4096]).is_ok() {}
        assert!(wires.passes(&four(address(MALLORY), address(ALICE), 17, &udp(9, 9, b"secret"))));
        wires.send(&ethernet(
            mac(NOBODY),
            mac(MALLORY),
            0x0800,
            &ipv4(address(MALLORY), address(NOBODY), 17, &[]),
        ));
        assert!(wires.try_pass(&[]).is_some());
        let mut buffer = [0; 4096];
        let got = rustix::io::read(bob.fds[0].as_fd(), &mut buffer);
        assert!(got.is_err(), "a third guest got {got:?} bytes");
    });
}

#[test]
fn guests_that_are_kept_apart_do_not_hear_each_other() {
    in_namespace(async || {
        let mut wires = Wires::new(BetweenVms::Isolated).await;
        let to_host = arp(1, mac(MALLORY), address(MALLORY), Ipv4Addr::new(10, 100, 0, 1));
        // The host answers, so the wire is there.
        eventually("the host answers", async || {
            wires.send(&ethernet(BROADCAST, mac(MALLORY), 0x0806, &to_host));
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut buffer = [0; 4096];
            rustix::io::read(wires.mallory.fds[0].as_fd(), &mut buffer).ok().map(|_| ())
        })
        .await;
        assert_eq!(wires.try_pass(&[]), None, "neither by the bridge");
        assert!(wires.received().is_none());
        let through_host = ethernet(
            mac_of(BRIDGE),
            mac(MALLORY),
            0x0800,
            &ipv4(address(MALLORY), address(ALICE), 17, &udp(9, 9, b"by the router")),
        );
        wires.send(&through_host);
        assert!(wires.received().is_none(), "nor by the host");
    });
}

#[test]
fn what_binds_a_port_is_mended_and_outlives_the_worker() {
    in_namespace(async || {
        let wires = Wires::new(BetweenVms::Open).await;
        let name = wires.mallory.name.as_str().to_owned();
        let learning = |name: &str| run(&format!("bridge -d link show dev {name}")).contains("learning off");
        assert!(learning(&name));
        run(&format!("bridge link set dev {name} learning on"));
        eventually("it is mended", async || learning(&name).then_some(())).await;
        run("nft flush set bridge procurator-br-test macs");
        eventually("the set is filled again", async || {
            run("nft list set bridge procurator-br-test macs").contains("02:50:0a:64:01:02").then_some(())
        })
        .await;

        // Nobody has named these VMs yet; they stay what they were.
        let Wires { network, mallory, alice, sentinels } = wires;
        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::start(config()).await.unwrap();
        let mut wires = Wires { network, mallory, alice, sentinels };
        assert!(!wires.passes(&four(address(NOBODY), address(ALICE), 17, &udp(1, 1, b""))));
        wires.network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(run("nft -s list ruleset"), "");
    });
}

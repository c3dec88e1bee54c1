//! Uplinks: a bridge with a port to the outside, which here is one end of a veth pair whose other end is another host. VLANs
//! need modules that not every kernel has: `cargo xtask vm-test` runs that test on a kernel that has them.

mod coming_and_going;
mod hostile;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use host_network::{
    BetweenVms, Egress, GuestAddresses, HostNetwork, LinkName, NetworkConfig, NicAttachment, RouterAdvice,
    Tap, Teardown, Uplink, VNET_HEADER_BYTES, VlanId,
};
use test_frames::{BROADCAST, Mac, arp, ethernet, ipv4, udp};
use vm_model::NetworkAccess;

use crate::guest::{Guest, make_tap};
use crate::namespaces::{
    BRIDGE, Host, addresses, config, eventually, in_namespace, kept, link, mac_of, nic, run,
};
use crate::reach::{client_script, configure_by_dhcp, reaches};

const HEADER: usize = VNET_HEADER_BYTES as usize;
/// The address of the machine beyond the uplink.
const BEYOND: &str = "10.100.9.9";

/// A network with the uplink `link`, or a VLAN on it.
fn with(link: &str, vlan: Option<u16>) -> NetworkConfig {
    let uplink = Uplink { link: LinkName::parse(link).unwrap(), vlan: vlan.and_then(VlanId::new) };
    NetworkConfig { uplink: Some(uplink), egress: Egress::Isolated, ..config() }
}

/// A network with the uplink `eth1`.
fn with_uplink() -> NetworkConfig {
    with("eth1", None)
}

/// A machine on the far side of `eth1`, which is down on this side and has no address.
async fn machine_beyond() -> Host {
    let beyond = Host::new();
    run(&format!("ip link add eth1 type veth peer name far0 netns {}", beyond.name()));
    let address = format!("{BEYOND}/16");
    beyond.run(&["ip", "address", "add", &address, "dev", "far0"]).await.unwrap();
    beyond.run(&["ip", "link", "set", "far0", "up"]).await.unwrap();
    beyond
}

/// The bridge that `eth1` is a port of, and whether it is up.
fn uplink_now() -> (Option<String>, bool) {
    let link = link("eth1").unwrap();
    let is_up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
    (link["master"].as_str().map(str::to_owned), is_up)
}

async fn refusal(config: NetworkConfig) -> String {
    let problem = HostNetwork::start(config).await.expect_err("it is refused").to_string();
    assert!(link(BRIDGE).is_none(), "nothing is left of it");
    problem
}

#[test]
fn guests_reach_what_is_beyond_the_uplink_and_the_host_gets_it_back_as_it_was() {
    in_namespace(async || {
        let state = tempfile::tempdir().unwrap();
        let config = NetworkConfig { state_dir: Some(state.path().to_owned()), ..with_uplink() };
        let beyond = machine_beyond().await;
        let network = HostNetwork::start(config.clone()).await.unwrap();
        assert_eq!(uplink_now(), (Some(BRIDGE.to_owned()), true));
        let tap = network.attach(nic(2)).await.unwrap();
        let guest = Guest::behind(&tap, &nic(2)).await;
        configure_by_dhcp(&guest.host, &client_script(state.path(), "guest")).await;
        reaches(&guest.host, BEYOND).await;
        reaches(&beyond, "10.100.1.2").await;
        // What the bridge learns from outside is the outside's.
        let known = run(&format!("bridge fdb show br {BRIDGE} dynamic"));
        let mut learnt = known.lines().filter(|line| !line.contains("static"));
        assert!(learnt.all(|line| line.contains("dev eth1")), "{known}");

        // A worker that comes later knows what to give back.
        network.shutdown(Teardown::Keep).await.unwrap();
        reaches(&guest.host, BEYOND).await;
        let network = HostNetwork::resume(config, vec![kept(2, &tap.name)]).await.unwrap();
        reaches(&guest.host, BEYOND).await;
        drop(guest);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(uplink_now(), (None, false), "it was down before");
        assert!(link(BRIDGE).is_none() && !state.path().join("host-settings.json").exists());
    });
}

/// A guest and the far end of the uplink, which here is a TAP: what is written into it comes in by the uplink.
struct Wires {
    network: HostNetwork,
    guest: Tap,
    outside: OwnedFd,
}

const FAR_MAC: Mac = [2, 0, 0, 0, 9, 9];

fn guest_mac() -> Mac {
    nic(2).mac.octets()
}

fn guest_address() -> Ipv4Addr {
    nic(2).address
}

fn far_address() -> Ipv4Addr {
    BEYOND.parse().unwrap()
}

/// A datagram from the guest to the machine beyond, and the other way round.
fn outwards(from: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    ethernet(FAR_MAC, guest_mac(), 0x0800, &ipv4(from, far_address(), 17, &udp(ports.0, ports.1, &[0; 240])))
}

fn inwards(from: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    ethernet(
        guest_mac(),
        FAR_MAC,
        0x0800,
        &ipv4(from, guest_address(), 17, &udp(ports.0, ports.1, &[0; 240])),
    )
}

/// The frame with the tag of a VLAN.
fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00]);
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

fn write(wire: &OwnedFd, frame: &[u8]) {
    let mut bytes = vec![0; HEADER];
    bytes.extend(frame);
    rustix::io::write(wire, &bytes).expect("the TAP takes frames");
}

/// Whether `frame`, sent into `from`, comes out of `to`. A good frame is sent after it, and what arrives before that one is looked
/// at: frames pass within the call that sends them. `None` where the good one does not arrive.
fn passes((from, to): (&OwnedFd, &OwnedFd), frame: &[u8], good: &[u8]) -> Option<bool> {
    write(from, frame);
    write(from, good);
    let (mut buffer, mut has_passed) = ([0; 4096], false);
    while let Ok(length) = rustix::io::read(to, &mut buffer) {
        let received = &buffer[HEADER..length];
        has_passed |= received == frame;
        if received == good {
            return Some(has_passed);
        }
    }
    None
}

impl Wires {
    async fn new(config: NetworkConfig) -> Self {
        let outside = make_tap("eth1").unwrap();
        let network = HostNetwork::start(config).await.unwrap();
        let guest = network.attach(nic(2)).await.unwrap();
        let wires = Self { network, guest, outside };
        let hello = inwards(far_address(), (7, 7));
        let wire = (&wires.outside, &wires.guest.fds[0]);
        eventually("the uplink passes frames on", async || passes(wire, &hello, &hello)).await;
        wires
    }

    fn leaves(&self, frame: &[u8]) -> bool {
        let good = outwards(guest_address(), (9, 9));
        passes((&self.guest.fds[0], &self.outside), frame, &good).expect("a good frame leaves")
    }

    fn enters(&self, frame: &[u8]) -> bool {
        let good = inwards(far_address(), (9, 9));
        passes((&self.outside, &self.guest.fds[0]), frame, &good).expect("a good frame enters")
    }

    /// The bridge's port for the guest's address.
    fn guest_is_at_its_port(&self) -> bool {
        let mac = nic(2).mac.to_string();
        let known = run(&format!("bridge fdb show br {BRIDGE}"));
        known.lines().any(|line| line.starts_with(&mac) && line.contains(&format!("dev {}", self.guest.name)))
    }
}

#[test]
fn a_guest_is_as_bound_towards_the_uplink_as_towards_its_neighbours() {
    in_namespace(async || {
        let wires = Wires::new(with_uplink()).await;
        let own = guest_address();
        assert!(wires.leaves(&outwards(own, (1, 2))));
        let claim = |mac, from| ethernet(BROADCAST, guest_mac(), 0x0806, &arp(1, mac, from, far_address()));
        assert!(wires.leaves(&claim(guest_mac(), own)));
        let mut forged = outwards(own, (1, 2));
        forged[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        for (what, frame) in [
            ("another MAC address", forged),
            ("another IPv4 address", outwards(Ipv4Addr::new(10, 100, 1, 9), (1, 2))),
            ("a claim to another's address", claim(guest_mac(), far_address())),
            ("a tag of a VLAN", tagged(100, &outwards(own, (1, 2)))),
            ("two tags", tagged(100, &tagged(200, &outwards(own, (1, 2))))),
            ("spanning tree", ethernet([1, 0x80, 0xc2, 0, 0, 0], guest_mac(), 38, &[0x42; 38])),
            ("a DHCP server's words", outwards(own, (67, 68))),
            (
                "a question for an address",
                ethernet(
                    BROADCAST,
                    guest_mac(),
                    0x0800,
                    &ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &udp(68, 67, &[0; 240])),
                ),
            ),
        ] {
            assert!(!wires.leaves(&frame), "{what} leaves");
        }
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn what_comes_in_by_the_uplink_is_no_guests_and_gives_no_addresses() {
    in_namespace(async || {
        let wires = Wires::new(with_uplink()).await;
        let hello = inwards(far_address(), (1, 2));
        assert!(wires.enters(&hello));
        let from = |mac: Mac| {
            let mut frame = hello.clone();
            frame[6..12].copy_from_slice(&mac);
            frame
        };
        let claim = ethernet(BROADCAST, FAR_MAC, 0x0806, &arp(2, FAR_MAC, config().gateway, guest_address()));
        for (what, frame) in [
            ("the guest's own MAC address", from(guest_mac())),
            ("the bridge's MAC address", from(mac_of(BRIDGE))),
            ("a tag of a VLAN", tagged(100, &hello)),
            ("spanning tree", ethernet([1, 0x80, 0xc2, 0, 0, 0], FAR_MAC, 38, &[0x42; 38])),
            ("another DHCP server", inwards(far_address(), (67, 68))),
            ("a claim to the host's address", claim),
        ] {
            assert!(!wires.enters(&frame), "{what} enters");
        }
        assert!(wires.guest_is_at_its_port(), "the bridge has learnt nothing of its address from outside");
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn where_others_give_addresses_guests_are_bound_to_their_mac_address_alone() {
    in_namespace(async || {
        let addresses_of = GuestAddresses::External;
        let wires = Wires::new(NetworkConfig { addresses: addresses_of, ..with_uplink() }).await;
        assert_eq!(addresses(BRIDGE), [""; 0], "the host has none there");
        let anybody = Ipv4Addr::new(192, 0, 2, 99);
        let asks = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &udp(68, 67, &[0; 240]));
        assert!(wires.leaves(&outwards(anybody, (1, 2))), "any address");
        assert!(wires.leaves(&ethernet(
            BROADCAST,
            guest_mac(),
            0x0806,
            &arp(1, guest_mac(), anybody, far_address())
        )));
        assert!(wires.leaves(&ethernet(BROADCAST, guest_mac(), 0x0800, &asks)), "asks the others' server");
        assert!(wires.enters(&inwards(far_address(), (67, 68))), "which answers");
        let mut forged = outwards(anybody, (1, 2));
        forged[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        assert!(!wires.leaves(&forged), "another MAC address");
        assert!(!wires.leaves(&outwards(anybody, (67, 68))), "plays a DHCP server");
        let forwards = vec!["8080:80".parse().unwrap()];
        let with_ports = NicAttachment { access: NetworkAccess { forwards, egress: None }, ..nic(3) };
        let refused = wires.network.attach(with_ports).await.unwrap_err().to_string();
        assert!(refused.contains("others give addresses in its network"), "{refused}");
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn guests_that_are_kept_apart_reach_the_outside_and_no_list_is_promised_that_does_not_hold() {
    in_namespace(async || {
        let apart = NetworkConfig { between_vms: BetweenVms::Isolated, ..with_uplink() };
        let wires = Wires::new(apart).await;
        assert!(wires.leaves(&outwards(guest_address(), (1, 2))));
        assert!(wires.enters(&inwards(far_address(), (1, 2))));
        let neighbour = wires.network.attach(nic(3)).await.unwrap();
        let to_neighbour = ipv4(guest_address(), nic(3).address, 17, &udp(1, 2, b"hello"));
        write(&wires.guest.fds[0], &ethernet(nic(3).mac.octets(), guest_mac(), 0x0800, &to_neighbour));
        assert!(wires.leaves(&outwards(guest_address(), (1, 2))));
        let mut buffer = [0; 4096];
        assert!(rustix::io::read(&neighbour.fds[0], &mut buffer).is_err(), "the neighbour hears nothing");
        let restricted = NetworkAccess { egress: Some(Vec::new()), ..NetworkAccess::default() };
        let restricted = NicAttachment { access: restricted, ..nic(4) };
        let refused = wires.network.attach(restricted).await.unwrap_err().to_string();
        assert!(refused.contains("its network has the uplink eth1"), "{refused}");
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn another_router_is_told_where_one_is_named() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let router = RouterAdvice::Other(far_address());
        let own = Ipv4Addr::new(10, 100, 0, 7);
        let _beyond = machine_beyond().await;
        let config = NetworkConfig { router, gateway: own, ..with_uplink() };
        let network = HostNetwork::start(config).await.unwrap();
        assert_eq!(addresses(BRIDGE), ["10.100.0.7/16"]);
        let tap = network.attach(nic(2)).await.unwrap();
        let guest = Guest::behind(&tap, &nic(2)).await;
        let told = configure_by_dhcp(&guest.host, &client_script(directory.path(), "guest")).await;
        assert_eq!(told, format!("10.100.1.2/16 via {BEYOND} dns 192.0.2.53 for vm-2\n"));
        let taken = NicAttachment { address: far_address(), ..nic(3) };
        network.attach(taken).await.expect_err("the router's address is no guest's");
        drop(guest);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// Whether `sent`, written into `from`, comes out of `to` as `expected`, within what the next `good` one takes.
fn turns_into(
    (from, to): (&OwnedFd, &OwnedFd),
    (sent, expected): (&[u8], &[u8]),
    (good, arrived): (&[u8], &[u8]),
) -> Option<bool> {
    write(from, sent);
    write(from, good);
    let (mut buffer, mut has_passed) = ([0; 4096], false);
    while let Ok(length) = rustix::io::read(to, &mut buffer) {
        let received = &buffer[HEADER..length];
        has_passed |= received == expected;
        if received == arrived {
            return Some(has_passed);
        }
    }
    None
}

#[test]
#[ignore = "lab: needs VLAN devices"]
fn frames_of_a_vlan_have_its_tag_outside_and_none_inside() {
    in_namespace(async || {
        let outside = make_tap("eth1").unwrap();
        let network = HostNetwork::start(with("eth1", Some(100))).await.unwrap();
        let guest = network.attach(nic(2)).await.unwrap();
        let inside = &guest.fds[0];
        let (inward, outward) = (inwards(far_address(), (1, 2)), outwards(guest_address(), (1, 2)));
        let (good_in, good_out) = (inwards(far_address(), (9, 9)), outwards(guest_address(), (9, 9)));
        let (tagged_in, tagged_out) = (tagged(100, &good_in), tagged(100, &good_out));
        let enters = |sent: &[u8], expected: &[u8]| {
            turns_into((&outside, inside), (sent, expected), (&tagged_in, &good_in))
        };
        let leaves = |sent: &[u8], expected: &[u8]| {
            turns_into((inside, &outside), (sent, expected), (&good_out, &tagged_out))
        };
        eventually("the VLAN passes frames on", async || enters(&inward, &inward)).await;

        assert_eq!(enters(&tagged(100, &inward), &inward), Some(true), "with the tag it enters, without it");
        assert_eq!(enters(&inward, &inward), Some(false), "no tag");
        assert_eq!(enters(&tagged(200, &inward), &inward), Some(false), "another VLAN");
        let double = tagged(100, &tagged(200, &inward));
        assert_eq!(enters(&double, &tagged(200, &inward)), Some(false), "a tag inside");
        assert_eq!(leaves(&outward, &tagged(100, &outward)), Some(true), "it leaves with the tag");
        assert_eq!(leaves(&outward, &outward), Some(false), "and in no other way");
        let double = tagged(200, &outward);
        assert_eq!(leaves(&double, &tagged(100, &double)), Some(false), "a tag of the guest's own");
        let mut forged = outward.clone();
        forged[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        assert_eq!(leaves(&forged, &tagged(100, &forged)), Some(false), "another MAC address");

        run("ip link delete eth1.100");
        eventually("the link is made again and passes frames on", async || enters(&inward, &inward)).await;
        assert_eq!(link("eth1.100").unwrap()["master"].as_str(), Some(BRIDGE));
        network.shutdown(Teardown::Remove).await.unwrap();
        assert!(link("eth1.100").is_none() && link("eth1").is_some());
        assert_eq!(uplink_now(), (None, false));
    });
}

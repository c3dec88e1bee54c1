//! What a hostile machine beyond an uplink gets of the host and its guests, what a hostile guest gets out, and what the host
//! itself lets out.

use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use host_network::{Egress, HostNetwork, NetworkConfig, Teardown};
use test_frames::{ALL_NODES, icmpv6, ipv6, router_alert};

use super::*;
use crate::namespaces::try_run;

/// The bridge's address in the VMs' IPv6 network.
const SIX_GATEWAY: &str = "fd12:3456:789a::1";
/// The Ethernet addresses of all IPv4 and all IPv6 nodes.
const ALL_IPV4: Mac = [1, 0, 0x5e, 0, 0, 1];
const ALL_IPV6: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A network with an uplink of which this host is the router, by IPv6 too.
fn routing() -> NetworkConfig {
    let ipv6 = Some("fd12:3456:789a::/64".parse().unwrap());
    NetworkConfig { egress: Egress::Masquerade, ipv6, ..with_uplink() }
}

fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Every frame that is there to be read.
fn read_all(wire: &OwnedFd) -> Vec<Vec<u8>> {
    let mut buffer = [0; 4096];
    let mut frames = Vec::new();
    while let Ok(length) = rustix::io::read(wire.as_fd(), &mut buffer) {
        frames.push(buffer[HEADER..length].to_vec());
    }
    frames
}

/// A router advertisement, without extension headers.
fn is_advertisement(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 134
}

/// A DHCP server's message.
fn is_offer(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..36] == [0, 67]
}

/// A client's first message, which asks for an answer to everybody.
fn discover() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0, 0, 0x12, 0x34, 0, 0, 0x80, 0];
    message.resize(28, 0);
    message.extend(guest_mac());
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    // The smallest there is (RFC 951).
    message.resize(300, 0);
    let datagram = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &udp(68, 67, &message));
    ethernet(BROADCAST, guest_mac(), 0x0800, &datagram)
}

#[test]
fn what_the_host_tells_its_guests_stays_on_this_host() {
    in_namespace(async || {
        let wires = Wires::new(routing()).await;
        let mut outside = Vec::new();
        // The bridge sends nothing for a moment after its first port came up.
        eventually("the guest is offered an address", async || {
            write(&wires.guest.fds[0], &discover());
            read_all(&wires.guest.fds[0]).iter().any(|frame| is_offer(frame)).then_some(())
        })
        .await;
        outside.extend(read_all(&wires.outside));

        // A worker that starts tells everybody of the router, over a bridge that is up with its uplink.
        let Wires { network, guest, outside: wire } = wires;
        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::resume(routing(), vec![kept(2, &guest.name)]).await.unwrap();
        eventually("the guest hears of its router", async || {
            read_all(&guest.fds[0]).iter().any(|frame| is_advertisement(frame)).then_some(())
        })
        .await;
        outside.extend(read_all(&wire));
        for frame in &outside {
            assert!(!is_offer(frame) && !is_advertisement(frame), "outside is told {frame:02x?}");
        }
        assert!(!outside.is_empty(), "the wire carries something");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn the_host_is_no_router_for_those_beyond_the_uplink() {
    in_namespace(async || {
        let state = tempfile::tempdir().unwrap();
        let beyond = machine_beyond().await;
        // A host in another network of this one, which knows the way back.
        let other = Host::new();
        run(&format!("ip link add wan type veth peer name eth0 netns {}", other.name()));
        run("ip address add 198.51.100.1/24 dev wan");
        run("ip address add 2001:db8:5::1/64 dev wan nodad");
        run("ip link set wan up");
        for command in [
            &["ip", "address", "add", "198.51.100.2/24", "dev", "eth0"][..],
            &["ip", "address", "add", "2001:db8:5::2/64", "dev", "eth0", "nodad"],
            &["ip", "link", "set", "eth0", "up"],
            &["ip", "route", "add", "10.100.0.0/16", "via", "198.51.100.1"],
            &["ip", "route", "add", "fd12:3456:789a::/64", "via", "2001:db8:5::1"],
        ] {
            other.run(command).await.unwrap();
        }
        let network = HostNetwork::start(routing()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let guest = Guest::behind(&tap, &nic(2)).await;
        configure_by_dhcp(&guest.host, &client_script(state.path(), "guest")).await;
        reaches(&guest.host, "198.51.100.2").await;
        reaches(&guest.host, BEYOND).await;
        reaches(&other, "10.100.1.2").await;
        reaches(&beyond, "10.100.0.1").await;

        for command in [
            &["ip", "address", "add", "fd12:3456:789a::99/64", "dev", "far0", "nodad"][..],
            &["ip", "route", "add", "198.51.100.0/24", "via", "10.100.0.1"],
            &["ip", "route", "add", "2001:db8:5::/64", "via", SIX_GATEWAY],
        ] {
            beyond.run(command).await.unwrap();
        }
        reaches(&beyond, SIX_GATEWAY).await;
        for (from, to) in [
            (&beyond, "198.51.100.2"),
            (&beyond, "2001:db8:5::2"),
            (&other, BEYOND),
            (&other, "fd12:3456:789a::99"),
        ] {
            let ping = ["busybox", "ping", "-c", "2", "-W", "1", to];
            assert!(from.run(&ping).await.is_err(), "{to} is reached through the host");
        }
        // Each of two rules would do: the one on the wire, and the one where packets are forwarded.
        for table in [format!("bridge procurator-{BRIDGE}"), format!("ip procurator-{BRIDGE}")] {
            let rules = run(&format!("nft list table {table}"));
            let closed = rules
                .lines()
                .any(|rule| rule.contains("beyond the uplink") || rule.contains("no router for"));
            assert!(closed, "{rules}");
        }
        drop(guest);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn nobody_outside_speaks_for_this_host_or_gives_addresses() {
    in_namespace(async || {
        let wires = Wires::new(routing()).await;
        let far = link_local(FAR_MAC);
        let (gateway, own): (Ipv6Addr, _) = (SIX_GATEWAY.parse().unwrap(), link_local(mac_of(BRIDGE)));
        let six = |from, to, next, payload: &[u8]| {
            ethernet(ALL_IPV6, FAR_MAC, 0x86dd, &ipv6(from, to, next, payload))
        };
        let claim = |from: Ipv6Addr, target: Ipv6Addr| {
            six(from, ALL_NODES, 58, &icmpv6(from, ALL_NODES, 136, [0x20, 0, 0, 0], &target.octets()))
        };
        assert!(wires.enters(&claim(far, far)), "who it is itself");
        let offer = router_alert(17, &udp(547, 546, &[2; 40]));
        let hello = inwards(far_address(), (1, 2));
        let to = |mac: Mac, frame: &[u8]| [&mac[..], &frame[6..]].concat();
        for (what, frame) in [
            ("a DHCPv6 answer", six(far, ALL_NODES, 17, &udp(547, 546, &[2; 40]))),
            ("one behind destination options", six(far, ALL_NODES, 60, &offer)),
            ("one behind hop-by-hop options", six(far, ALL_NODES, 0, &offer)),
            ("a claim to the host's IPv6 address", claim(far, gateway)),
            ("the same under that address", claim(gateway, gateway)),
            ("a claim to the host's link-local address", claim(far, own)),
            ("the same under that address", claim(own, own)),
            ("the host's IPv6 address", six(gateway, ALL_NODES, 17, &udp(53, 4444, b"answer"))),
            ("the host's IPv4 address", inwards(config().gateway, (53, 4444))),
            ("a datagram for the group of bridges", to([1, 0x80, 0xc2, 0, 0, 0], &hello)),
            ("a datagram for the group of LLDP", to([1, 0x80, 0xc2, 0, 0, 0x0e], &hello)),
        ] {
            assert!(!wires.enters(&frame), "{what} enters");
        }
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_guest_plays_no_router_to_those_outside() {
    in_namespace(async || {
        for addresses in [GuestAddresses::Ours, GuestAddresses::External] {
            let wires = Wires::new(NetworkConfig { addresses, ..with_uplink() }).await;
            let own = guest_address();
            let all_hosts = Ipv4Addr::new(224, 0, 0, 1);
            let group = |protocol, payload: &[u8]| {
                ethernet(ALL_IPV4, guest_mac(), 0x0800, &ipv4(own, all_hosts, protocol, payload))
            };
            let six_own = link_local(guest_mac());
            let mld_query = icmpv6(six_own, ALL_NODES, 130, [0, 100, 0, 0], &[0; 16]);
            assert!(wires.leaves(&group(17, &udp(5353, 5353, b"mdns"))), "what is no router's");
            for (what, frame) in [
                ("VRRP", group(112, &[0x31, 1, 255, 1, 0, 100, 0, 0, 10, 100, 0, 254])),
                ("OSPF", group(89, &[2, 1, 0, 44, 0, 0, 0, 0])),
                ("HSRP", group(17, &udp(1985, 1985, &[0; 20]))),
                ("RIP", group(17, &udp(520, 520, &[2; 24]))),
                ("an IGMP query", group(2, &[0x11, 100, 0xee, 0x9b, 0, 0, 0, 0])),
                (
                    "an ICMP router advertisement",
                    group(1, &[9, 0, 0, 0, 1, 2, 7, 8, 10, 100, 1, 2, 0, 0, 0, 0]),
                ),
                ("an ICMP redirect", group(1, &[5, 1, 0, 0, 10, 100, 1, 2, 0x45, 0, 0, 0])),
                (
                    "an MLD query",
                    ethernet(ALL_IPV6, guest_mac(), 0x86dd, &ipv6(six_own, ALL_NODES, 58, &mld_query)),
                ),
                (
                    "a datagram for the group of bridges",
                    ethernet(
                        [1, 0x80, 0xc2, 0, 0, 0],
                        guest_mac(),
                        0x0800,
                        &ipv4(own, far_address(), 17, &udp(1, 2, b"")),
                    ),
                ),
            ] {
                assert!(!wires.leaves(&frame), "{what} leaves where addresses are of {addresses:?}");
            }
            wires.network.shutdown(Teardown::Remove).await.unwrap();
            drop(wires.guest);
            run("ip link delete eth1");
        }
    });
}

#[test]
fn a_guest_asks_for_no_address_but_its_own() {
    in_namespace(async || {
        let wires = Wires::new(with_uplink()).await;
        let probe = |about| {
            ethernet(BROADCAST, guest_mac(), 0x0806, &arp(1, guest_mac(), Ipv4Addr::UNSPECIFIED, about))
        };
        assert!(wires.leaves(&probe(guest_address())), "its own");
        for other in [far_address(), config().gateway, Ipv4Addr::new(10, 100, 200, 1)] {
            assert!(!wires.leaves(&probe(other)), "a probe for {other} leaves");
        }
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// The switch of a link's IPv6.
fn switch(link: &str, switch: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{switch}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn the_host_believes_nothing_on_an_uplink_and_gives_its_switches_back() {
    in_namespace(async || {
        let _beyond = machine_beyond().await;
        let silent =
            || (switch("eth1", "accept_ra"), switch("eth1", "autoconf"), switch("eth1", "disable_ipv6"));
        let words = |words: [&str; 3]| (words[0].to_owned(), words[1].to_owned(), words[2].to_owned());
        let before = words(["1", "1", "0"]);
        assert_eq!(silent(), before);
        let network = HostNetwork::start(routing()).await.unwrap();
        assert_eq!(silent(), words(["0", "0", "1"]));
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(silent(), before);
    });
}

#[test]
fn a_kernel_without_vlans_is_told_of_before_a_start_and_by_it() {
    in_namespace(async || {
        run("ip link add eth1 type veth peer name far0");
        let config = with("eth1", Some(100));
        let surveyed =
            host_network::survey(&config, None).await.unwrap().uplink.map(|problem| problem.to_string());
        let asked = ["ip", "link", "add", "link", "eth1", "name", "probe", "type", "vlan", "id", "7"];
        if try_run(&asked).is_ok() {
            assert_eq!(surveyed, None);
            return;
        }
        let expected = "the uplink VLAN 100 of eth1 of the bridge br-test needs VLANs, which this kernel does not have: load its \
                        module 8021q, or run a kernel that is built with it";
        assert_eq!(surveyed.as_deref(), Some(expected));
        assert_eq!(refusal(config).await, expected);
        assert_eq!(uplink_now(), (None, false));
    });
}

#[test]
fn nobody_outside_claims_an_address_of_a_guest() {
    in_namespace(async || {
        let wires = Wires::new(routing()).await;
        let neighbour = wires.network.attach(nic(3)).await.unwrap();
        let own = guest_address();
        let served: vm_model::Ipv6Subnet = "fd12:3456:789a::/64".parse().unwrap();
        let six = served.address_of(nic(2).mac);
        let announces = |address| ethernet(BROADCAST, FAR_MAC, 0x0806, &arp(1, FAR_MAC, address, address));
        let answers = |address| ethernet(guest_mac(), FAR_MAC, 0x0806, &arp(2, FAR_MAC, address, own));
        let (far, group) = (link_local(FAR_MAC), ALL_NODES);
        let six_wire = |from, next, payload: &[u8]| {
            ethernet(ALL_IPV6, FAR_MAC, 0x86dd, &ipv6(from, group, next, payload))
        };
        let advertises = |address: Ipv6Addr| {
            six_wire(far, 58, &icmpv6(far, group, 136, [0x20, 0, 0, 0], &address.octets()))
        };
        let sends = |from: Ipv6Addr| six_wire(from, 17, &udp(1, 2, b"hello"));
        assert!(wires.enters(&announces(far_address())) && wires.enters(&answers(far_address())));
        assert!(wires.enters(&advertises(far)) && wires.enters(&sends(far)));
        for (what, frame) in [
            ("an announcement of the guest's address", announces(own)),
            ("an answer for its neighbour's address", answers(nic(3).address)),
            ("a datagram from its neighbour's address", inwards(nic(3).address, (1, 2))),
            ("an advertisement of the guest's IPv6 address", advertises(six)),
            ("one of its link-local address", advertises(link_local(guest_mac()))),
            ("a packet from the guest's IPv6 address", sends(six)),
        ] {
            assert!(!wires.enters(&frame), "{what} enters");
        }
        // Whoever has gone has no address here.
        wires.network.detach(&nic(3).vm, "net0").await.unwrap();
        drop(neighbour);
        assert!(wires.enters(&answers(nic(3).address)), "somebody else may have it now");
        // What somebody takes away of it comes back.
        run(&format!("nft flush set bridge procurator-{BRIDGE} guest_ipv4"));
        eventually("claims are dropped again", async || (!wires.enters(&announces(own))).then_some(())).await;
        wires.network.shutdown(Teardown::Remove).await.unwrap();
    });
}

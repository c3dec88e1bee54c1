//! IPv6 as guests have it: a kernel that hears our router advertisements, a DHCPv6 client, and what passes then.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use dhcproto::v6::{DhcpOption, IANA, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use host_network::{BetweenVms, Egress, HostNetwork, LinkName, NetworkConfig, NicAttachment, Teardown};
use test_frames::{ALL_NODES, ethernet, icmpv6, ipv6};
use vm_model::{Ipv6Subnet, NetworkAccess, link_local};

use crate::guest::{Guest, make_tap};
use crate::namespaces::{BRIDGE, Host, config, eventually, in_namespace, nic, run, try_run};

const PATIENCE: Duration = Duration::from_millis(1500);
/// A machine beyond the host, and the host on the way to it.
const BEYOND: &str = "2001:db8:5::2";
const NEAR: &str = "2001:db8:5::1";

fn subnet() -> Ipv6Subnet {
    "fd12:3456:789a::/64".parse().unwrap()
}

fn with_ipv6() -> NetworkConfig {
    NetworkConfig { ipv6: Some(subnet()), names: Some("vm.internal".parse().unwrap()), ..config() }
}

fn address(number: u8) -> Ipv6Addr {
    subnet().address_of(nic(number).mac)
}

/// A guest whose kernel has learnt its router, and that has given itself the address that DHCPv6 told it.
async fn guest(network: &HostNetwork, attachment: NicAttachment) -> Guest {
    let number = attachment.mac.octets()[5];
    let tap = network.attach(attachment.clone()).await.unwrap();
    let guest = Guest::behind(&tap, &attachment).await;
    let default = eventually("a router", async || {
        let routes = guest.host.run(&["ip", "-6", "route", "show", "default"]).await.unwrap();
        routes.contains("proto ra").then_some(routes)
    });
    assert!(default.await.contains("via fe80::"));
    let told = eventually("an address", async || lease(&guest.host, number).await).await;
    assert_eq!(told, address(number));
    let told = format!("{told}/128");
    guest.host.run(&["ip", "-6", "address", "add", &told, "dev", "eth0", "nodad"]).await.unwrap();
    guest
}

/// The address that a client there is told in the usual exchange of four messages.
async fn lease(host: &Host, number: u8) -> Option<Ipv6Addr> {
    let own = link_local(nic(number).mac);
    host.on(move || {
        let index = fs::read_to_string("/proc/thread-self/net/dev_mcast").ok()?;
        let index =
            index.lines().find_map(|line| line.contains("eth0").then(|| line.split_whitespace().next()))?;
        let index: u32 = index?.parse().ok()?;
        let socket = UdpSocket::bind(SocketAddrV6::new(own, 546, 0, index)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        let servers = SocketAddrV6::new("ff02::1:2".parse().ok()?, 547, 0, index);
        let mut solicit = message(MessageType::Solicit);
        let offer = exchange(&socket, servers, &mut solicit)?;
        let mut request = message(MessageType::Request);
        let server = offer.opts().iter().find(|option| matches!(option, DhcpOption::ServerId(_)))?;
        request.opts_mut().insert(server.clone());
        let reply = exchange(&socket, servers, &mut request)?;
        reply.opts().iter().find_map(|option| match option {
            DhcpOption::IANA(association) => association.opts.iter().find_map(|option| match option {
                DhcpOption::IAAddr(address) => Some(address.addr),
                _ => None,
            }),
            _ => None,
        })
    })
    .await
}

fn message(kind: MessageType) -> Message {
    let mut message = Message::new(kind);
    message
        .opts_mut()
        .insert(DhcpOption::ClientId(vec![0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]));
    let association = IANA { id: 7, t1: 0, t2: 0, opts: Default::default() };
    message.opts_mut().insert(DhcpOption::IANA(association));
    message
}

fn exchange(socket: &UdpSocket, to: SocketAddrV6, message: &mut Message) -> Option<Message> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    socket.send_to(&bytes, to).ok()?;
    let mut buffer = [0; 1500];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    let answer = Message::decode(&mut Decoder::new(&buffer[..length])).ok()?;
    (answer.xid() == message.xid()).then_some(answer)
}

/// Another machine, which listens on port 80 of every address, and which the host reaches by `wan`.
async fn beyond() -> Host {
    let beyond = Host::new();
    run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
    run(&format!("ip -6 address add {NEAR}/64 dev wan nodad"));
    run("ip link set wan up");
    beyond
        .run(&["ip", "-6", "address", "add", &format!("{BEYOND}/64"), "dev", "eth0", "nodad"])
        .await
        .unwrap();
    beyond.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    listen(&beyond, 80).await;
    beyond
}

async fn listen(host: &Host, port: u16) {
    let listener = host.on(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()).await;
    thread::spawn(move || listener.incoming().for_each(drop));
}

/// As whom a connection from there is seen to come about, to where nothing but an end is sent.
async fn connects(from: &Host, to: IpAddr, port: u16) -> bool {
    from.on(move || {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE);
        stream.is_ok_and(|mut stream| stream.read(&mut [0]).is_ok())
    })
    .await
}

async fn reaches(from: &Host, to: Ipv6Addr) {
    eventually(&format!("a connection to {to}"), async || connects(from, to.into(), 80).await.then_some(()))
        .await;
}

fn switch(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap().trim().to_owned()
}

#[test]
fn guests_reach_each_other_and_beyond_and_the_host_is_given_back() {
    in_namespace(async || {
        run("ip link set lo up");
        let beyond = beyond().await;
        let before = (switch("all/forwarding"), switch("wan/accept_ra"), switch("wan/forwarding"));
        assert_eq!(before.0, "0");
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        let (one, other) = (guest(&network, nic(2)).await, guest(&network, nic(3)).await);
        assert!(run("nft list table ip6 procurator-br-test").contains("ip6 saddr ct count over"));
        listen(&other.host, 80).await;
        reaches(&one.host, address(3)).await;
        reaches(&one.host, BEYOND.parse().unwrap()).await;
        assert_eq!((switch("all/forwarding"), switch("wan/accept_ra")), ("1".to_owned(), "2".to_owned()));

        // Nobody else gains a router.
        let lan = Host::new();
        run(&format!("ip link add lan type veth peer name eth0 netns {}", lan.name()));
        run("ip -6 address add 2001:db8:6::1/64 dev lan nodad");
        run("ip link set lan up");
        lan.run(&["ip", "-6", "address", "add", "2001:db8:6::2/64", "dev", "eth0", "nodad"]).await.unwrap();
        lan.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
        lan.run(&["ip", "-6", "route", "add", "default", "via", "2001:db8:6::1"]).await.unwrap();
        beyond.run(&["ip", "-6", "route", "add", "default", "via", NEAR]).await.unwrap();
        listen(&lan, 80).await;
        reaches(&one.host, "2001:db8:6::2".parse().unwrap()).await;
        assert!(!connects(&lan, BEYOND.parse().unwrap(), 80).await, "by way of this host");

        // The host is closed, and reaches its guests.
        let _closed = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 22)).unwrap();
        for own in [subnet().gateway(), NEAR.parse().unwrap()] {
            assert!(!connects(&one.host, own.into(), 22).await, "{own}");
        }
        TcpStream::connect_timeout(&SocketAddr::new(address(3).into(), 80), PATIENCE).unwrap();

        // What somebody takes away comes back.
        run(&format!("ip -6 address del {}/64 dev {BRIDGE}", subnet().gateway()));
        run("nft delete table ip6 procurator-br-test");
        run("sysctl -q net.ipv6.conf.all.forwarding=0");
        eventually("mended", async || {
            let has_address = run("ip -6 -o address show").contains("fd12:3456:789a::1/64");
            let has_table = try_run(&["nft", "list", "table", "ip6", "procurator-br-test"]).is_ok();
            (has_address && has_table && switch("all/forwarding") == "1").then_some(())
        })
        .await;
        reaches(&one.host, BEYOND.parse().unwrap()).await;

        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!((switch("all/forwarding"), switch("wan/accept_ra"), switch("wan/forwarding")), before);
        assert_eq!(run("nft -s list ruleset"), "");
    });
}

#[test]
fn a_guest_speaks_from_its_own_address_alone() {
    in_namespace(async || {
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        let (one, other) = (guest(&network, nic(2)).await, guest(&network, nic(3)).await);
        listen(&other.host, 80).await;
        reaches(&one.host, address(3)).await;
        let foreign = format!("{}/128", subnet().address_of(nic(9).mac));
        one.host.run(&["ip", "-6", "address", "add", &foreign, "dev", "eth0", "nodad"]).await.unwrap();
        let own = format!("{}/128", address(2));
        one.host.run(&["ip", "-6", "address", "del", &own, "dev", "eth0"]).await.unwrap();
        assert!(!connects(&one.host, address(3).into(), 80).await, "another's address");
        one.host.run(&["ip", "-6", "address", "add", &own, "dev", "eth0", "nodad"]).await.unwrap();
        one.host.run(&["ip", "-6", "address", "del", &foreign, "dev", "eth0"]).await.unwrap();
        reaches(&one.host, address(3)).await;

        // It claims its neighbour's address, and nobody believes it.
        let stolen = format!("{}/128", address(3));
        one.host.run(&["ip", "-6", "address", "add", &stolen, "dev", "eth0", "nodad"]).await.unwrap();
        run(&format!("ip -6 neighbour flush dev {BRIDGE}"));
        TcpStream::connect_timeout(&SocketAddr::new(address(3).into(), 80), Duration::from_secs(5)).unwrap();
        let known = run(&format!("ip -6 neighbour show {} dev {BRIDGE}", address(3)));
        assert!(known.contains(&nic(3).mac.to_string()), "{known}");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn lists_of_destinations_hold_for_ipv6_too() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        let restricted = |number: u8, egress: &[&str]| {
            let egress = Some(egress.iter().map(|rule| rule.parse().unwrap()).collect());
            NicAttachment { access: NetworkAccess { forwards: Vec::new(), egress }, ..nic(number) }
        };
        let free = guest(&network, restricted(2, &["0.0.0.0/0", "[2001:db8:5::/64]:80"])).await;
        let bound = guest(&network, restricted(3, &["0.0.0.0/0"])).await;
        reaches(&free.host, BEYOND.parse().unwrap()).await;
        listen(&free.host, 80).await;
        reaches(&bound.host, address(2)).await;
        assert!(!connects(&bound.host, BEYOND.parse().unwrap(), 80).await, "its list has no IPv6");

        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        reaches(&free.host, BEYOND.parse().unwrap()).await;
        assert!(!connects(&bound.host, BEYOND.parse().unwrap(), 80).await, "also before the VM is known");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_network_that_is_cut_off_or_kept_apart_is_so_by_ipv6_too() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let cut_off =
            NetworkConfig { egress: Egress::Isolated, between_vms: BetweenVms::Isolated, ..with_ipv6() };
        let network = HostNetwork::start(cut_off).await.unwrap();
        assert_eq!(switch("all/forwarding"), "0");
        let taps = [network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap()];
        let one = Guest::behind(&taps[0], &nic(2)).await;
        let other = Guest::behind(&taps[1], &nic(3)).await;
        for (guest, number) in [(&one, 2), (&other, 3)] {
            let told = eventually("an address", async || lease(&guest.host, number).await).await;
            let told = format!("{told}/64");
            guest.host.run(&["ip", "-6", "address", "add", &told, "dev", "eth0", "nodad"]).await.unwrap();
            listen(&guest.host, 80).await;
        }
        let routes = one.host.run(&["ip", "-6", "route", "show", "default"]).await.unwrap();
        assert_eq!(routes, "", "a router that leads nowhere is none");
        TcpStream::connect_timeout(&SocketAddr::new(address(2).into(), 80), Duration::from_secs(5)).unwrap();
        assert!(!connects(&one.host, address(3).into(), 80).await, "guests are kept apart");
        // Whatever the host forwards for others.
        run("sysctl -q net.ipv6.conf.all.forwarding=1");
        let gateway = subnet().gateway().to_string();
        for wanted in [format!("{}/128", address(3)), "default".to_owned()] {
            one.host.run(&["ip", "-6", "route", "add", &wanted, "via", &gateway]).await.unwrap();
        }
        assert!(!connects(&one.host, address(3).into(), 80).await, "nor by the router");
        assert!(!connects(&one.host, BEYOND.parse().unwrap(), 80).await);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// A frame by which a router beyond `eth0` advertises itself and the prefix `2001:db8:<number>::/64`.
fn advertisement(number: u16) -> Vec<u8> {
    let router: Ipv6Addr = "fe80::99".parse().unwrap();
    let mut body = vec![0; 8];
    body.extend([3, 4, 64, 0xc0]);
    body.extend([86_400_u32, 43_200, 0].into_iter().flat_map(u32::to_be_bytes));
    body.extend(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0).octets());
    let [high, low] = 1800_u16.to_be_bytes();
    let message = icmpv6(router, ALL_NODES, 134, [64, 0, high, low], &body);
    let packet = ipv6(router, ALL_NODES, 58, &message);
    ethernet([0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x99], 0x86dd, &packet)
}

async fn hears(uplink: &OwnedFd, number: u16) {
    let mut frame = vec![0; usize::from(host_network::VNET_HEADER_BYTES)];
    frame.extend(advertisement(number));
    eventually("an address by advertisement", async || {
        rustix::io::write(uplink.as_fd(), &frame).unwrap();
        run("ip -6 -o address show dev uplink").contains(&format!("2001:db8:{number}:")).then_some(())
    })
    .await;
}

#[test]
fn the_host_keeps_the_way_out_that_it_was_advertised() {
    in_namespace(async || {
        let uplink = make_tap("uplink").unwrap();
        run("ip link set uplink up");
        hears(&uplink, 1).await;
        let default = || run("ip -6 route show default dev uplink");
        assert!(default().contains("proto ra"), "{}", default());
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        assert_eq!(switch("all/forwarding"), "1");
        assert!(default().contains("proto ra"), "it was thrown away");
        hears(&uplink, 2).await;
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!((switch("all/forwarding"), switch("uplink/accept_ra")), ("0".to_owned(), "1".to_owned()));
        assert!(default().contains("proto ra"), "{}", default());
        hears(&uplink, 3).await;
    });
}

#[test]
fn what_a_run_left_changed_is_given_back_by_the_next() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = Some(directory.path().to_owned());
        let left =
            HostNetwork::start(NetworkConfig { state_dir: state_dir.clone(), ..with_ipv6() }).await.unwrap();
        assert_eq!((switch("all/forwarding"), switch("wan/accept_ra")), ("1".to_owned(), "2".to_owned()));
        left.shutdown(Teardown::Keep).await.unwrap();
        let without = NetworkConfig { state_dir: state_dir.clone(), ..config() };
        let network = HostNetwork::start(without).await.unwrap();
        assert_eq!((switch("all/forwarding"), switch("wan/accept_ra")), ("0".to_owned(), "1".to_owned()));
        assert!(try_run(&["nft", "list", "table", "ip6", "procurator-br-test"]).is_err());
        assert!(!run("ip -6 -o address show").contains("fd12:"));
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_bridge_of_somebody_else_is_given_back_without_our_addresses() {
    in_namespace(async || {
        run(&format!("ip link add {BRIDGE} type bridge"));
        run(&format!("ip link set {BRIDGE} up"));
        let switches =
            || ["disable_ipv6", "accept_ra", "accept_dad"].map(|name| switch(&format!("{BRIDGE}/{name}")));
        let before = switches();
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        assert!(run(&format!("ip -6 -o address show dev {BRIDGE}")).contains("fd12:3456:789a::1/64"));
        network.shutdown(Teardown::Remove).await.unwrap();
        assert!(!run("ip -6 -o address show").contains("fd12:3456:789a::1"));
        assert_eq!(switches(), before);
    });
}

#[test]
fn a_network_that_another_link_has_is_refused() {
    in_namespace(async || {
        run("ip link add lan type veth peer name lan-peer");
        run("ip -6 address add fd12:3456:789a::7/64 dev lan nodad");
        let refusal = HostNetwork::start(with_ipv6()).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the link br-test cannot have the IPv6 network fd12:3456:789a::/64: another link of this host has the address \
             fd12:3456:789a::7/64"
        );
        assert!(try_run(&["ip", "link", "show", BRIDGE]).is_err(), "nothing is left");
    });
}

#[test]
fn two_networks_do_not_guard_against_each_other() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        let other = NetworkConfig {
            ipv6: Some("fd12:3456:789b::/64".parse().unwrap()),
            ..NetworkConfig::new(LinkName::parse("br-other").unwrap(), "10.101.0.0/16".parse().unwrap())
        };
        let other = HostNetwork::start(other).await.unwrap();
        let table = || run("nft list table ip6 procurator-br-test");
        eventually("the other bridge in the guard", async || table().contains("br-other").then_some(()))
            .await;
        let one = guest(&network, nic(2)).await;
        reaches(&one.host, BEYOND.parse().unwrap()).await;
        network.shutdown(Teardown::Remove).await.unwrap();
        eventually("the other one forwards", async || (switch("all/forwarding") == "1").then_some(())).await;
        other.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switch("all/forwarding"), "0");
    });
}

#[test]
fn names_are_answered_by_ipv6() {
    in_namespace(async || {
        let network = HostNetwork::start(with_ipv6()).await.unwrap();
        let one = guest(&network, nic(2)).await;
        let asked = one.host.on(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect((subnet().gateway(), 53)).unwrap();
            let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            question.extend(b"\x04vm-2\x02vm\x08internal\0\0\x1c\0\x01");
            socket.send(&question).unwrap();
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).unwrap();
            answer[..length].to_vec()
        });
        let answer = asked.await;
        assert_eq!(answer[3] & 0xf, 0);
        assert_eq!(answer[answer.len() - 16..], address(2).octets());
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

//! Names from the guests' view, asked for real: of VMs, of others by a name server beyond, and under a flood.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use host_network::{DnsServers, Egress, HostNetwork, NetworkConfig, StartWarning, Tap, Teardown};

use crate::guest::Guest;
use crate::namespaces::{Host, config, eventually, in_namespace, nic, run};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
const ROUTER: &str = "10.100.0.1:53";
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;

pub(crate) fn with_names() -> NetworkConfig {
    NetworkConfig {
        names: Some("vm.internal".parse().unwrap()),
        dns: DnsServers::List(vec![BEYOND]),
        ..config()
    }
}

/// A guest with its address and route.
async fn guest(tap: &Tap, number: u8) -> Guest {
    let guest = Guest::behind(tap, &nic(number)).await;
    let address = format!("10.100.1.{number}/16");
    guest.host.run(&["ip", "address", "add", &address, "dev", "eth0"]).await.unwrap();
    guest.host.run(&["ip", "route", "add", "default", "via", "10.100.0.1"]).await.unwrap();
    guest
}

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Code and last four bytes of the answer to a question for a name; `None` without an answer.
fn ask(server: &str, name: &str, kind: u16) -> Option<(u8, Vec<u8>)> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).ok()?;
    socket.send(&question(4711, name, kind)).ok()?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).ok()?;
    assert_eq!(answer[..2], 4711_u16.to_be_bytes());
    Some((answer[3] & 0xf, answer[length - 4..length].to_vec()))
}

async fn ask_from(host: &Host, server: &'static str, name: &'static str, kind: u16) -> Option<(u8, Vec<u8>)> {
    host.on(move || ask(server, name, kind)).await
}

/// An answer to `message` by one address.
fn answer(message: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = message.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
    answer.extend(address);
    answer
}

/// A machine beyond the host, with a name server that says 192.0.2.99 to everything but what begins with `silent`, to which
/// it says nothing. It lies first: under another number, and of another name.
async fn name_server_beyond() -> (Host, Arc<AtomicUsize>) {
    let beyond = Host::new();
    run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
    run("ip address add 198.51.100.1/24 dev wan");
    run("ip link set wan up");
    beyond.run(&["ip", "address", "add", "198.51.100.2/24", "dev", "eth0"]).await.unwrap();
    beyond.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    let socket = beyond.on(|| UdpSocket::bind((BEYOND, 53)).unwrap()).await;
    let listener = beyond.on(|| TcpListener::bind((BEYOND, 53)).unwrap()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            counter.fetch_add(1, Ordering::Relaxed);
            let message = &bytes[..length];
            if message[13..].starts_with(b"silent") {
                continue;
            }
            let mut other_number = answer(message, [203, 0, 113, 1]);
            other_number[0] ^= 0xff;
            let mut other_name = answer(message, [203, 0, 113, 2]);
            other_name[13] ^= 1;
            for reply in [other_number, other_name, answer(message, [192, 0, 2, 99])] {
                socket.send_to(&reply, from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut message = vec![0; 2];
            stream.read_exact(&mut message).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes([message[0], message[1]]))];
            stream.read_exact(&mut message).unwrap();
            let reply = answer(&message, [192, 0, 2, 98]);
            stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    (beyond, asked)
}

#[test]
fn vms_are_found_by_name_and_others_by_the_hosts_name_servers() {
    in_namespace(async || {
        run("ip link set lo up");
        let (_beyond, asked) = name_server_beyond().await;
        let network = HostNetwork::start(with_names()).await.unwrap();
        assert_eq!(network.report().dns, [Ipv4Addr::new(10, 100, 0, 1), BEYOND]);
        let (one, other) = (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        let guest = guest(&one, 2).await;
        let found =
            eventually("an answer", async || ask_from(&guest.host, ROUTER, "vm-3.vm.internal", TYPE_A).await)
                .await;
        assert_eq!(found, (0, vec![10, 100, 1, 3]));
        let (code, end) = ask_from(&guest.host, ROUTER, "3.1.100.10.in-addr.arpa", TYPE_PTR).await.unwrap();
        assert_eq!((code, &end[..]), (0, &b"nal\0"[..]));
        assert_eq!(ask_from(&guest.host, ROUTER, "vm-9.vm.internal", TYPE_A).await.unwrap().0, 3);
        assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody else is asked for these");

        // A stock client: it looks for IPv4 and IPv6.
        let said = guest.host.run(&["busybox", "nslookup", "vm-3.vm.internal", "10.100.0.1"]).await.unwrap();
        assert!(said.contains("10.100.1.3"), "{said}");

        // Of three answers that come, the one to this question is told.
        let others = ask_from(&guest.host, ROUTER, "www.example", TYPE_A).await.unwrap();
        assert_eq!(others, (0, vec![192, 0, 2, 99]));
        let by_tcp = guest.host.on(|| {
            let mut stream = TcpStream::connect(ROUTER).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut last = Vec::new();
            for name in ["vm-3.vm.internal", "www.example"] {
                let message = question(9, name, TYPE_A);
                stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
                stream.write_all(&message).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut reply).unwrap();
                last.push(reply[reply.len() - 1]);
            }
            last
        });
        assert_eq!(by_tcp.await, [3, 98]);

        // It is there on the bridge's address alone, and a name goes with its VM.
        assert_eq!(ask_from(&guest.host, "198.51.100.1:53", "www.example", TYPE_A).await, None);
        drop(other);
        network.detach(&nic(3).vm, "net0").await.unwrap();
        assert_eq!(ask_from(&guest.host, ROUTER, "vm-3.vm.internal", TYPE_A).await.unwrap().0, 3);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_guest_that_floods_leaves_its_neighbour_its_answers() {
    in_namespace(async || {
        run("ip link set lo up");
        let (_beyond, asked) = name_server_beyond().await;
        let network = HostNetwork::start(with_names()).await.unwrap();
        let (one, other) = (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        let (mallory, alice) = (guest(&one, 2).await, guest(&other, 3).await);
        for host in [&mallory.host, &alice.host] {
            eventually("an answer", async || ask_from(host, ROUTER, "vm-3.vm.internal", TYPE_A).await).await;
        }
        let flood = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(ROUTER).unwrap();
            for number in 0..20_000_u16 {
                // What the queue does not hold is lost.
                let _ = socket.send(&question(number, &format!("silent{number}.example"), TYPE_A));
            }
        };
        let flooding = mallory.host.on(flood);
        let asking = async {
            for _ in 0..20 {
                let found = ask_from(&alice.host, ROUTER, "vm-2.vm.internal", TYPE_A).await;
                assert_eq!(found, Some((0, vec![10, 100, 1, 2])));
                let others = ask_from(&alice.host, ROUTER, "www.example", TYPE_A).await;
                assert_eq!(others, Some((0, vec![192, 0, 2, 99])));
            }
        };
        tokio::join!(flooding, asking);
        assert!(asked.load(Ordering::Relaxed) < 200, "a guest has 32 questions outstanding: {asked:?}");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_network_that_is_cut_off_asks_nobody() {
    in_namespace(async || {
        run("ip link set lo up");
        let (_beyond, asked) = name_server_beyond().await;
        let config = NetworkConfig { egress: Egress::Isolated, ..with_names() };
        let network = HostNetwork::start(config).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let guest = guest(&tap, 2).await;
        eventually("an answer", async || ask_from(&guest.host, ROUTER, "vm-2.vm.internal", TYPE_A).await)
            .await;
        assert_eq!(ask_from(&guest.host, ROUTER, "www.example", TYPE_A).await.unwrap().0, 2);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn where_the_port_is_taken_guests_are_told_others() {
    in_namespace(async || {
        run("ip link set lo up");
        let _taken = UdpSocket::bind("0.0.0.0:53").unwrap();
        let network = HostNetwork::start(with_names()).await.unwrap();
        assert_eq!(network.report().dns, [BEYOND]);
        let warnings = &network.report().warnings;
        assert!(matches!(&warnings[..], [StartWarning::NoNames(_)]), "{warnings:?}");
        assert!(warnings[0].to_string().contains("port 53 of the bridge's address"), "{}", warnings[0]);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

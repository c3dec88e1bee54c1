//! Ports of the host that lead to VMs, with real connections from the host, from a machine beyond and from a neighbour.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use host_network::{Egress, HostNetwork, LinkName, NetworkConfig, NicAttachment, Tap, Teardown};
use vm_model::NetworkAccess;

use crate::guest::Guest;
use crate::namespaces::{Host, config, eventually, in_namespace, kept, nic, run};

const PATIENCE: Duration = Duration::from_millis(700);

pub(crate) fn with_ports(number: u8, ports: &[&str]) -> NicAttachment {
    let forwards = ports.iter().map(|port| port.parse().unwrap()).collect();
    NicAttachment { access: NetworkAccess { forwards, egress: None }, ..nic(number) }
}

/// A guest with its address and route.
pub(crate) async fn guest(tap: &Tap, number: u8) -> Guest {
    let guest = Guest::behind(tap, &nic(number)).await;
    let address = format!("10.100.1.{number}/16");
    guest.host.run(&["ip", "address", "add", &address, "dev", "eth0"]).await.unwrap();
    guest.host.run(&["ip", "route", "add", "default", "via", "10.100.0.1"]).await.unwrap();
    guest
}

/// Has a guest greet whoever connects to its port, with the address it sees.
pub(crate) async fn greet(guest: &Host, port: u16, greeting: &'static str) {
    let listener = guest.on(move || TcpListener::bind(("0.0.0.0", port)).unwrap()).await;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip();
            // Whoever connected may be gone.
            let _ = write!(stream, "{greeting} {peer}");
        }
    });
}

/// What one is greeted with at `address`; `None` where there is no connection.
fn greeting(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

pub(crate) async fn greeting_at(host: &Host, address: &'static str) -> Option<String> {
    host.on(move || greeting(address)).await
}

/// A machine beyond the host, at 198.51.100.2 beside its 198.51.100.1.
pub(crate) async fn machine_beyond() -> Host {
    let beyond = Host::new();
    run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
    run("ip address add 198.51.100.1/24 dev wan");
    run("ip link set wan up");
    beyond.run(&["ip", "address", "add", "198.51.100.2/24", "dev", "eth0"]).await.unwrap();
    beyond.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    beyond.run(&["ip", "route", "add", "127.0.0.0/8", "via", "198.51.100.1", "table", "local"]).await.ok();
    beyond
}

#[test]
fn a_port_of_the_host_leads_to_a_vm_from_everywhere_and_ends_with_it() {
    in_namespace(async || {
        run("ip link set lo up");
        let beyond = machine_beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let web = network.attach(with_ports(2, &["8080:80", "127.0.0.1:8081:80"])).await.unwrap();
        assert_eq!(web.warnings, []);
        let other = network.attach(nic(3)).await.unwrap();
        let (web_guest, neighbour) = (guest(&web, 2).await, guest(&other, 3).await);
        greet(&web_guest.host, 80, "web").await;

        // From the host itself, by any of its addresses.
        let greeted = eventually("a greeting", async || greeting("127.0.0.1:8080")).await;
        assert_eq!(greeted, "web 10.100.0.1", "loopback comes under the bridge's address");
        assert_eq!(greeting("198.51.100.1:8080").as_deref(), Some("web 198.51.100.1"));
        assert_eq!(greeting("10.100.0.1:8080").as_deref(), Some("web 10.100.0.1"));
        assert_eq!(greeting("127.0.0.1:8081").as_deref(), Some("web 10.100.0.1"));
        assert_eq!(greeting("198.51.100.1:8081"), None, "that one is on loopback alone");

        // From beyond, under the address that it has.
        assert_eq!(greeting_at(&beyond, "198.51.100.1:8080").await.as_deref(), Some("web 198.51.100.2"));
        assert_eq!(greeting_at(&beyond, "198.51.100.1:8081").await, None);

        // From a neighbour, by the host's addresses.
        for address in ["10.100.0.1:8080", "198.51.100.1:8080"] {
            let greeted = eventually(address, async || greeting_at(&neighbour.host, address).await).await;
            assert_eq!(greeted, "web 10.100.0.1", "{address}");
        }

        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert!(!run("nft list table ip procurator-br-test").contains("8080"), "it ends with its VM");
        assert_eq!(greeting("127.0.0.1:8080"), None);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn datagrams_are_forwarded_and_answered() {
    in_namespace(async || {
        run("ip link set lo up");
        let beyond = machine_beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(with_ports(2, &["5353:53/udp"])).await.unwrap();
        let guest = guest(&tap, 2).await;
        let socket = guest.host.on(|| UdpSocket::bind("0.0.0.0:53").unwrap()).await;
        thread::spawn(move || {
            let mut bytes = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                // Whoever asked may be gone.
                let _ = socket.send_to(&bytes[..length], from);
            }
        });
        fn echo(to: SocketAddr) -> Option<()> {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"hello").ok()?;
            (socket.recv(&mut [0; 100]).ok()? == 5).then_some(())
        }
        eventually("an echo by loopback", async || echo("127.0.0.1:5353".parse().unwrap())).await;
        beyond.on(|| echo("198.51.100.1:5353".parse().unwrap())).await.expect("an echo from beyond");
    });
}

#[test]
fn loopback_stays_the_hosts_own() {
    in_namespace(async || {
        run("ip link set lo up");
        let network = HostNetwork::start(config()).await.unwrap();
        let web = network.attach(with_ports(2, &["127.0.0.1:8081:80"])).await.unwrap();
        let other = network.attach(nic(3)).await.unwrap();
        let (web_guest, mallory) = (guest(&web, 2).await, guest(&other, 3).await);
        greet(&web_guest.host, 80, "web").await;
        let private = TcpListener::bind("127.0.0.1:9000").unwrap();
        eventually("a greeting", async || greeting("127.0.0.1:8081")).await;

        // A guest that has no loopback of its own sends what is for 127.0.0.1 to its router.
        for command in [
            "ip link set lo down",
            "ip route flush table local dev lo",
            "ip route add 127.0.0.1 via 10.100.0.1",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            mallory.host.run(&words).await.unwrap();
        }
        mallory
            .host
            .on(|| std::fs::write("/proc/thread-self/net/../../../sys/net/ipv4/conf/all/route_localnet", "1"))
            .await
            .ok();
        assert_eq!(greeting_at(&mallory.host, "127.0.0.1:8081").await, None);
        assert_eq!(greeting_at(&mallory.host, "127.0.0.1:9000").await, None);
        private.set_nonblocking(true).unwrap();
        assert!(private.accept().is_err(), "nobody came");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_port_that_another_worker_leads_to_a_vm_is_not_led_to_a_second_one() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let _first = network.attach(with_ports(2, &["8080:80"])).await.unwrap();
        let bridge = LinkName::parse("br-second").unwrap();
        let second = NetworkConfig::new(bridge, "10.101.0.0/16".parse().unwrap());
        let wanted =
            |ports: &[&str]| NicAttachment { address: [10, 101, 0, 2].into(), ..with_ports(3, ports) };
        let other = HostNetwork::start(second.clone()).await.unwrap();
        let refused = other.attach(wanted(&["127.0.0.1:8080:1"])).await.unwrap_err().to_string();
        assert!(
            refused.contains(
                "the nftables table procurator-br-test, which is another worker's, leads 8080:80/tcp"
            ),
            "{refused}"
        );
        other.attach(wanted(&["8081:80"])).await.expect("another port");
        other.shutdown(Teardown::Remove).await.unwrap();

        // Of networks of one worker, it is known which VM has which.
        let own = NetworkConfig { peers: vec![config().bridge], ..second };
        let other = HostNetwork::start(own).await.unwrap();
        other.attach(wanted(&["8080:1"])).await.expect("it is refused elsewhere");
        other.shutdown(Teardown::Remove).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn one_port_leads_to_one_vm() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(with_ports(2, &["8080:80", "192.0.2.7:81:80"])).await.unwrap();
        let told: Vec<String> = tap.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["the port forward 192.0.2.7:81:80/tcp leads nowhere yet: this host has no address 192.0.2.7"]
        );
        let refusal = network.attach(with_ports(3, &["127.0.0.1:8080:8080"])).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the port forward 127.0.0.1:8080:8080/tcp of vm-3 cannot be had: 8080:80/tcp of vm-2 has that port of this host"
        );
        // The first is gone, and so is its hold on the port.
        network.detach(&nic(2).vm, "net0").await.unwrap();
        network.attach(with_ports(3, &["127.0.0.1:8080:8080"])).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_port_that_a_program_of_the_host_listens_on_is_no_vms() {
    in_namespace(async || {
        run("ip link set lo up");
        let own = TcpListener::bind("[::]:7444").unwrap();
        let theirs = Stdio::from(OwnedFd::from(TcpListener::bind("0.0.0.0:22").unwrap()));
        let mut sshd = Running(Command::new("sleep").arg("600").stdin(theirs).spawn().unwrap());
        let network = HostNetwork::start(config()).await.unwrap();
        let refusal =
            async |ports: &[&str]| network.attach(with_ports(2, ports)).await.unwrap_err().to_string();
        let page = refusal(&["8080:80", "7444:443"]).await;
        assert!(
            page.starts_with(
                "the port forward 7444:443/tcp cannot be had: this worker listens on port 7444/tcp of this host"
            ),
            "{page}"
        );
        let held = format!("sleep (process {}) listens on port 22/tcp", sshd.0.id());
        for ports in ["22:22", "127.0.0.1:22:22"] {
            let refused = refusal(&[ports]).await;
            assert!(refused.contains(&held), "{refused}");
        }
        assert!(!run("nft list table ip procurator-br-test").contains("7444"), "nothing is forwarded");
        // Datagrams are another port, and what ends frees its own.
        network.attach(with_ports(3, &["22:22/udp"])).await.unwrap();
        sshd.end();
        let tap = network.attach(with_ports(2, &["22:22"])).await.unwrap();
        assert_eq!(tap.warnings, []);

        // Who comes later is told, and the VM keeps its port; also over a restart of the worker.
        let degraded = network.watch_degraded();
        let later = TcpListener::bind("127.0.0.1:22").unwrap();
        run("ip link add other type veth peer name other0");
        let told = eventually("it is told", async || degraded.borrow().first().cloned()).await;
        assert!(
            told.starts_with("this worker listens on 127.0.0.1:22/tcp of this host, and is not reached"),
            "{told}"
        );
        network.shutdown(Teardown::Keep).await.unwrap();
        let known = host_network::KeptNic { access: with_ports(2, &["22:22"]).access, ..kept(2, &tap.name) };
        let network = HostNetwork::resume(config(), vec![known]).await.unwrap();
        assert!(run("nft list table ip procurator-br-test").contains("tcp . 22 :"), "it keeps its port");
        drop((own, later));
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// A program that ends with this value.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_servers_of_vms_networks_are_in_no_forwards_way() {
    in_namespace(async || {
        run("ip link set lo up");
        let config = NetworkConfig { names: Some("vm.internal".parse().unwrap()), ..config() };
        let network = HostNetwork::start(config).await.unwrap();
        assert!(network.report().domain.is_some(), "names are answered at port 53 of the bridge's address");
        let tap = network.attach(with_ports(2, &["53:53/udp", "53:53"])).await.unwrap();
        assert_eq!(tap.warnings, []);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn forwards_outlive_the_worker_and_come_back_when_they_are_flushed() {
    in_namespace(async || {
        run("ip link set lo up");
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(with_ports(2, &["8080:80"])).await.unwrap();
        let guest = guest(&tap, 2).await;
        greet(&guest.host, 80, "web").await;
        eventually("a greeting", async || greeting("127.0.0.1:8080")).await;
        network.shutdown(Teardown::Keep).await.unwrap();
        assert!(greeting("127.0.0.1:8080").is_some(), "without a worker");

        // Nobody has named it yet: the tables of before say where it leads.
        let network = HostNetwork::start(config()).await.unwrap();
        assert!(greeting("127.0.0.1:8080").is_some(), "before the VM is known");
        network.shutdown(Teardown::Keep).await.unwrap();

        let forwards = with_ports(2, &["8080:80"]).access;
        let known = host_network::KeptNic { access: forwards, ..kept(2, &tap.name) };
        let network = HostNetwork::resume(config(), vec![known]).await.unwrap();
        assert!(greeting("127.0.0.1:8080").is_some(), "taken over");
        run("nft flush map ip procurator-br-test forwards_any");
        eventually("the forward is back", async || greeting("127.0.0.1:8080")).await;
        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert_eq!(greeting("127.0.0.1:8080"), None);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn without_a_way_out_ports_lead_there_from_the_host_alone() {
    in_namespace(async || {
        run("ip link set lo up");
        let beyond = machine_beyond().await;
        let network =
            HostNetwork::start(NetworkConfig { egress: Egress::Isolated, ..config() }).await.unwrap();
        let tap = network.attach(with_ports(2, &["8080:80"])).await.unwrap();
        assert_eq!(
            tap.warnings[0].to_string(),
            "the port forward 8080:80/tcp is reached from this host alone: its network is cut off from others \
             (network.nat is false)"
        );
        let guest = guest(&tap, 2).await;
        greet(&guest.host, 80, "web").await;
        eventually("a greeting", async || greeting("127.0.0.1:8080")).await;
        assert!(greeting("198.51.100.1:8080").is_some());
        assert_eq!(greeting_at(&beyond, "198.51.100.1:8080").await, None);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

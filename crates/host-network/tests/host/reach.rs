//! The whole of it with a stock DHCP client: two guests, a host beyond, pings between them, and what guests reach of
//! their host.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_network::{HostNetwork, NetworkConfig, Teardown};

use crate::guest::Guest;
use crate::namespaces::{Host, config, eventually, in_namespace, nic, run};

/// What udhcpc runs when it has an address: the least that a stock image's script does.
const CLIENT_SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip route add default via $router
echo \"$ip/$mask via $router dns $dns for $hostname\" > \"$0.told\"
";

pub(crate) fn client_script(directory: &Path, name: &str) -> PathBuf {
    let script = directory.join(name);
    fs::write(&script, CLIENT_SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

pub(crate) async fn configure_by_dhcp(host: &Host, script: &Path) -> String {
    let script_path = script.to_str().unwrap();
    let client =
        ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", script_path];
    host.run(&client).await.unwrap_or_else(|said| panic!("udhcpc: {said}"));
    fs::read_to_string(script.with_extension("told")).unwrap()
}

pub(crate) async fn reaches(host: &Host, address: &str) {
    eventually(&format!("an answer from {address}"), async || {
        host.run(&["busybox", "ping", "-c", "1", "-W", "1", address]).await.ok()
    })
    .await;
}

#[test]
fn machines_on_the_bridge_get_addresses_and_reach_the_host_each_other_and_beyond() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        // A host beyond ours, which knows no way back into the VMs' network.
        let beyond = Host::new();
        run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
        run("ip address add 198.51.100.1/24 dev wan");
        run("ip link set wan up");
        beyond.run(&["ip", "address", "add", "198.51.100.2/24", "dev", "eth0"]).await.unwrap();
        beyond.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();

        let network = HostNetwork::start(config()).await.unwrap();
        let (first_tap, second_tap) =
            (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        let first_guest = Guest::behind(&first_tap, &nic(2)).await;
        let second_guest = Guest::behind(&second_tap, &nic(3)).await;
        let (first, second) = (&first_guest.host, &second_guest.host);
        let told = configure_by_dhcp(first, &client_script(directory.path(), "first")).await;
        assert_eq!(told, "10.100.1.2/16 via 10.100.0.1 dns 192.0.2.53 for vm-2\n");
        configure_by_dhcp(second, &client_script(directory.path(), "second")).await;
        reaches(first, "10.100.0.1").await;
        reaches(first, "10.100.1.3").await;
        reaches(second, "10.100.1.2").await;
        reaches(first, "198.51.100.2").await;
    });
}

/// Whether a connection from there to a port here comes about.
async fn connects(guest: &Host, address: &'static str) -> bool {
    let patience = Duration::from_millis(700);
    guest.on(move || TcpStream::connect_timeout(&address.parse().unwrap(), patience).is_ok()).await
}

#[test]
fn the_host_is_closed_to_guests_but_for_what_is_let_in() {
    in_namespace(async || {
        run("ip link set lo up");
        run("ip link add lan type veth peer name lan-peer");
        run("ip link set lan-peer up");
        run("ip address add 192.0.2.1/24 dev lan");
        run("ip link set lan up");
        let listeners =
            [TcpListener::bind("0.0.0.0:22").unwrap(), TcpListener::bind("0.0.0.0:8080").unwrap()];
        let config = NetworkConfig { host_services: vec!["tcp/8080".parse().unwrap()], ..config() };
        let network = HostNetwork::start(config).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let guest = Guest::behind(&tap, &nic(2)).await;
        guest.host.run(&["ip", "address", "add", "10.100.1.2/16", "dev", "eth0"]).await.unwrap();
        guest.host.run(&["ip", "route", "add", "default", "via", "10.100.0.1"]).await.unwrap();
        reaches(&guest.host, "10.100.0.1").await;
        assert!(connects(&guest.host, "10.100.0.1:8080").await, "what is let in");
        assert!(connects(&guest.host, "192.0.2.1:8080").await, "on any address");
        for closed in ["10.100.0.1:22", "192.0.2.1:22"] {
            assert!(!connects(&guest.host, closed).await, "{closed}");
        }
        drop(listeners);

        // What the host begins is answered.
        let listener = guest.host.on(|| TcpListener::bind("10.100.1.2:80").unwrap()).await;
        TcpStream::connect_timeout(&"10.100.1.2:80".parse().unwrap(), Duration::from_secs(5)).unwrap();
        drop(listener);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn what_a_hostile_guest_says_leaves_its_neighbours_alone() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let (mallory_tap, alice_tap) =
            (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        let mallory_guest = Guest::behind(&mallory_tap, &nic(2)).await;
        let alice_guest = Guest::behind(&alice_tap, &nic(3)).await;
        let (mallory, alice) = (&mallory_guest.host, &alice_guest.host);
        for (guest, address) in [(mallory, "10.100.1.2/16"), (alice, "10.100.1.3/16")] {
            guest.run(&["ip", "address", "add", address, "dev", "eth0"]).await.unwrap();
        }
        reaches(mallory, "10.100.1.3").await;

        // It takes the neighbour's hardware address, and the neighbour is reached nevertheless.
        let (own, hers) = (nic(2).mac.to_string(), nic(3).mac.to_string());
        mallory.run(&["ip", "link", "set", "eth0", "address", &hers]).await.unwrap();
        let ping = ["busybox", "ping", "-c", "3", "-W", "1", "10.100.0.1"];
        assert!(mallory.run(&ping).await.is_err(), "under a foreign hardware address nothing passes");
        alice.run(&ping).await.unwrap();
        mallory.run(&["ip", "link", "set", "eth0", "address", &own]).await.unwrap();

        // It answers for the gateway, and the neighbour does not believe it.
        mallory.run(&["ip", "address", "add", "10.100.0.1/16", "dev", "eth0"]).await.unwrap();
        let _ =
            mallory.run(&["busybox", "arping", "-c", "3", "-w", "3", "-U", "-I", "eth0", "10.100.0.1"]).await;
        let known = alice.run(&["ip", "neighbour", "show", "10.100.0.1"]).await.unwrap();
        assert!(!known.contains(&own), "{known}");
        alice.run(&ping).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

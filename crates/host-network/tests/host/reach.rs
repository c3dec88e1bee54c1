//! The whole of it with a stock DHCP client: two hosts on the bridge, one beyond it, and pings between them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use host_network::HostNetwork;

use crate::namespaces::{BRIDGE, Host, config, eventually, in_namespace, nic, run};

/// What udhcpc runs when it has an address: the least that a stock image's script does.
const CLIENT_SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip route add default via $router
echo \"$ip/$mask via $router dns $dns for $hostname\" > \"$0.told\"
";

/// A machine plugged into the bridge by a cable, with the hardware address that interface `number` is bound to.
async fn plug_in(number: u8) -> Host {
    let host = Host::new();
    let near = format!("near{number}");
    run(&format!(
        "ip link add {near} type veth peer name eth0 address {} netns {}",
        nic(number).mac,
        host.name()
    ));
    run(&format!("ip link set {near} master {BRIDGE} up"));
    host.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    host
}

fn client_script(directory: &Path, name: &str) -> PathBuf {
    let script = directory.join(name);
    fs::write(&script, CLIENT_SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

async fn configure_by_dhcp(host: &Host, script: &Path) -> String {
    let script_path = script.to_str().unwrap();
    let client =
        ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", script_path];
    host.run(&client).await.unwrap_or_else(|said| panic!("udhcpc: {said}"));
    fs::read_to_string(script.with_extension("told")).unwrap()
}

async fn reaches(host: &Host, address: &str) {
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
        let mut bound = Vec::new();
        for number in 2..=3 {
            bound.push(network.attach(nic(number)).await.unwrap());
        }
        let first = plug_in(2).await;
        let second = plug_in(3).await;
        let told = configure_by_dhcp(&first, &client_script(directory.path(), "first")).await;
        assert_eq!(told, "10.100.1.2/16 via 10.100.0.1 dns 192.0.2.53 for vm-2\n");
        configure_by_dhcp(&second, &client_script(directory.path(), "second")).await;
        reaches(&first, "10.100.0.1").await;
        reaches(&first, "10.100.1.3").await;
        reaches(&second, "10.100.1.2").await;
        reaches(&first, "198.51.100.2").await;
    });
}

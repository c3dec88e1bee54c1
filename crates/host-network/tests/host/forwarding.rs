//! Packet forwarding: VMs reach the world, and nobody else gains a router.

use std::fs;

use host_network::{Egress, HostForwarding, HostNetwork, LinkName, NetworkConfig, Teardown};
use rustix::thread::UnshareFlags;

use vm_model::error_chain;

use crate::namespaces::{
    BRIDGE, Host, config, enter_new_namespace, eventually, in_namespace, link_names, run,
};

/// A neighbour `10.<number>.0.2` on a network of its own, which the host reaches by the link `lan<number>`.
async fn neighbour(number: u8) -> Host {
    let host = Host::new();
    run(&format!("ip link add lan{number} type veth peer name eth0 netns {}", host.name()));
    run(&format!("ip address add 10.{number}.0.1/24 dev lan{number}"));
    run(&format!("ip link set lan{number} up"));
    let address = format!("10.{number}.0.2/24");
    host.run(&["ip", "address", "add", &address, "dev", "eth0"]).await.unwrap();
    host.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    host.run(&["ip", "route", "add", "default", "via", &format!("10.{number}.0.1")]).await.unwrap();
    host
}

/// A machine on the bridge with the address 10.100.1.2.
async fn machine() -> Host {
    machine_on(BRIDGE, "near", "10.100.1.2/16", "10.100.0.1").await
}

/// A machine on `bridge`, which has it as its port `port`.
async fn machine_on(bridge: &str, port: &str, address: &str, gateway: &str) -> Host {
    let host = Host::new();
    run(&format!("ip link add {port} type veth peer name eth0 netns {}", host.name()));
    run(&format!("ip link set {port} master {bridge} up"));
    host.run(&["ip", "address", "add", address, "dev", "eth0"]).await.unwrap();
    host.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    host.run(&["ip", "route", "add", "default", "via", gateway]).await.unwrap();
    host
}

async fn pings(host: &Host, address: &str) -> bool {
    host.run(&["busybox", "ping", "-c", "1", "-W", "1", address]).await.is_ok()
}

async fn reaches(host: &Host, address: &str) {
    eventually(&format!("an answer from {address}"), async || pings(host, address).await.then_some(())).await;
}

/// Every IPv4 switch of links that could have been touched, and the one for all.
fn switches() -> String {
    let mut all = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    for link in link_names().iter().filter(|link| *link != BRIDGE) {
        for switch in ["forwarding", "accept_redirects"] {
            let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/{switch}")).unwrap();
            all.push_str(&format!("{link} {switch} {value}"));
        }
    }
    for all_links in ["all", "default"] {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{all_links}/accept_redirects"));
        all.push_str(&value.unwrap());
    }
    all
}

#[test]
fn vms_reach_beyond_and_two_other_networks_do_not_reach_each_other() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let (first, second) = (neighbour(1).await, neighbour(2).await);
        reaches(&first, "10.1.0.1").await;
        let before = switches();
        let network = HostNetwork::start(config()).await.unwrap();
        let links = vec!["lan1".to_owned(), "lan2".to_owned()];
        assert_eq!(network.report().host_forwarding, HostForwarding::ForVmsOnly { links, owners: vec![] });
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        let vm = machine().await;
        reaches(&vm, "10.1.0.2").await;
        reaches(&vm, "10.2.0.2").await;
        assert!(!pings(&first, "10.2.0.2").await && !pings(&second, "10.1.0.2").await);
        run("ip link del near");
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switches(), before);
        assert!(!pings(&first, "10.2.0.2").await);
        // The neighbours could reach each other, if only the host let them.
        run("sysctl -q net.ipv4.ip_forward=1");
        reaches(&first, "10.2.0.2").await;
    });
}

#[test]
fn vms_of_two_workers_reach_beyond_and_strangers_do_not() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let (first, second) = (neighbour(1).await, neighbour(2).await);
        let before = switches();
        let network = HostNetwork::start(config()).await.unwrap();
        let other =
            NetworkConfig::new(LinkName::parse("br-other").unwrap(), "10.101.0.0/16".parse().unwrap());
        let other = HostNetwork::start(other).await.unwrap();
        let vm = machine().await;
        let others_vm = machine_on("br-other", "far", "10.101.1.2/16", "10.101.0.1").await;
        for host in [&vm, &others_vm] {
            reaches(host, "10.1.0.2").await;
            reaches(host, "10.2.0.2").await;
        }
        assert!(!pings(&first, "10.2.0.2").await && !pings(&second, "10.1.0.2").await);

        // The first one guards the links; when it goes, the second does.
        run("ip link del near");
        network.shutdown(Teardown::Remove).await.unwrap();
        reaches(&others_vm, "10.1.0.2").await;
        assert!(!pings(&first, "10.2.0.2").await && !pings(&second, "10.1.0.2").await);
        run("ip link del far");
        other.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switches(), before);
    });
}

#[test]
fn what_a_run_turned_on_is_known_by_its_guards_where_its_note_is_lost() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let (first, _second) = (neighbour(1).await, neighbour(2).await);
        // Its owner lets this one forward.
        run("sysctl -q net.ipv4.conf.lan2.forwarding=1");
        let before = switches();
        let lost = tempfile::tempdir().unwrap();
        let noting = |state: &tempfile::TempDir| NetworkConfig {
            state_dir: Some(state.path().to_owned()),
            ..config()
        };
        drop(HostNetwork::start(noting(&lost)).await.unwrap());
        let empty = tempfile::tempdir().unwrap();
        let network = HostNetwork::start(noting(&empty)).await.unwrap();
        let (links, owners) = (vec!["lan1".to_owned()], vec!["lan2".to_owned()]);
        assert_eq!(network.report().host_forwarding, HostForwarding::ForVmsOnly { links, owners });
        assert!(!pings(&first, "10.2.0.2").await, "it is guarded still");
        let seen = host_network::survey(&config(), None).await.unwrap();
        assert_eq!(seen.forwarding, network.report().host_forwarding, "also to who only looks");
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switches(), before);
    });
}

#[test]
fn a_host_that_forwards_goes_on_to_do_so_for_everybody() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=1");
        let (first, _second) = (neighbour(1).await, neighbour(2).await);
        let before = switches();
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(network.report().host_forwarding, HostForwarding::ForEverybody);
        let vm = machine().await;
        reaches(&vm, "10.1.0.2").await;
        reaches(&first, "10.2.0.2").await;
        run("ip link del near");
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switches(), before);
        reaches(&first, "10.2.0.2").await;
    });
}

#[test]
fn what_a_killed_run_changed_is_given_back_by_the_next() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let _neighbour = neighbour(1).await;
        let before = switches();
        let directory = tempfile::tempdir().unwrap();
        let config = NetworkConfig { state_dir: Some(directory.path().to_owned()), ..config() };
        // What is dropped cleans up as little as what is killed.
        drop(HostNetwork::start(config.clone()).await.unwrap());
        assert_ne!(switches(), before);
        assert!(directory.path().join("host-settings.json").exists());
        let network = HostNetwork::start(config).await.unwrap();
        assert_eq!(
            network.report().host_forwarding,
            HostForwarding::ForVmsOnly { links: vec!["lan1".to_owned()], owners: vec![] },
            "it is known for ours, so it is guarded"
        );
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(switches(), before);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing is noted any more");
    });
}

#[test]
fn what_somebody_else_sets_meanwhile_stays() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let _neighbour = neighbour(1).await;
        let network = HostNetwork::start(config()).await.unwrap();
        run("sysctl -q net.ipv4.ip_forward=1");
        network.shutdown(Teardown::Remove).await.unwrap();
        assert!(switches().starts_with("1\n"));
        assert!(switches().contains("lan1 forwarding 1"), "{}", switches());
    });
}

#[test]
fn a_start_without_nft_changes_nothing() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let _neighbour = neighbour(1).await;
        // nft is not to be found, for this thread and its children alone.
        enter_new_namespace(UnshareFlags::NEWNS);
        run("mount --make-rprivate /");
        let before = switches();
        let directory = tempfile::tempdir().unwrap();
        let nft = run("which nft");
        let real = fs::canonicalize(nft.trim()).unwrap();
        let programs = real.parent().unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        run(&format!("mount --bind {}/empty {}", directory.path().display(), programs.display()));
        let path =
            |egress| NetworkConfig { egress, state_dir: Some(directory.path().to_owned()), ..config() };
        for egress in [Egress::Masquerade, Egress::Routed, Egress::Isolated] {
            let error = HostNetwork::start(path(egress)).await.unwrap_err();
            assert!(error_chain(&error).contains("nft is not on PATH"), "{}", error_chain(&error));
        }
        rustix::mount::unmount(programs, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(switches(), before);
        assert_eq!(link_names(), ["lo", "lan1"]);
        assert!(!directory.path().join("host-settings.json").exists());
    });
}

#[test]
fn nft_is_fed_without_a_path_to_its_standard_input() {
    in_namespace(async || {
        enter_new_namespace(UnshareFlags::NEWNS);
        run("mount --make-rprivate /");
        let directory = tempfile::tempdir().unwrap();
        let devices = directory.path().display();
        // A /dev as a container may have it: what is needed, and no links to the standard streams.
        for device in ["net/tun", "null", "kvm"] {
            let path = directory.path().join(device);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            if std::path::Path::new("/dev").join(device).exists() {
                run(&format!("mount --bind /dev/{device} {devices}/{device}"));
            }
        }
        run(&format!("mount --rbind {devices} /dev"));
        assert!(!fs::exists("/dev/stdin").unwrap());
        let network = HostNetwork::start(config()).await.unwrap();
        assert!(run("nft list tables").contains("table ip procurator-br-test"));
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

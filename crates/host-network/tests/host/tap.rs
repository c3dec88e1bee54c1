//! TAPs: attached, described, detached, refused, reaped.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use host_network::{HostNetwork, NicAttachment, Teardown, TeardownOutcome};
use tokio::task::JoinSet;
use vm_model::{VmId, error_chain};

use crate::namespaces::{BRIDGE, config, eventually, in_namespace, link, link_names, links, nic, run};

#[test]
fn a_tap_is_a_port_of_the_bridge_until_it_is_detached() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let seen = link(tap.name.as_str()).unwrap();
        assert!(tap.name.as_str().starts_with("pw-vm-2-"), "{}", tap.name);
        assert_eq!(seen["ifindex"], tap.index);
        assert_eq!(seen["master"], BRIDGE);
        assert_eq!(seen["ifalias"], "procurator:vm-2/net0");
        assert_eq!(seen["mtu"], 1500);
        assert!(seen["flags"].as_array().unwrap().contains(&"UP".into()), "{seen}");
        let data = &seen["linkinfo"]["info_data"];
        assert_eq!(
            (&data["type"], &data["vnet_hdr"], &data["pi"], &data["persist"]),
            (&"tap".into(), &true.into(), &false.into(), &false.into())
        );
        eventually("the port forwards", async || {
            let state = &link(tap.name.as_str())?["linkinfo"]["info_slave_data"]["state"];
            (state == "forwarding").then_some(())
        })
        .await;
        let addresses = run(&format!("ip -6 address show dev {}", tap.name));
        assert_eq!(addresses, "", "the host speaks no IPv6 of its own on a TAP");

        // The descriptor is still open, and yet the link goes.
        network.detach(&VmId::new("vm-2"), "net0").await.unwrap();
        assert_eq!(link_names(), ["lo", BRIDGE]);
        network.detach(&VmId::new("vm-2"), "net0").await.unwrap();
        let again = network.attach(nic(2)).await.unwrap();
        assert_eq!(again.name, tap.name, "the same interface has the same name again");
    });
}

/// A program that is being started holds what this process has open until it begins.
async fn goes() {
    eventually("the TAP is gone", async || (link_names() == ["lo", BRIDGE]).then_some(())).await;
}

#[test]
fn a_tap_vanishes_with_its_descriptor() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        drop(tap.fds);
        goes().await;
        network.detach(&VmId::new("vm-2"), "net0").await.expect("a TAP that is gone is detached");
    });
}

#[test]
fn a_tap_has_as_many_queues_as_are_asked_for() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let queues = NonZeroU16::new(4).unwrap();
        let tap = network.attach(NicAttachment { queues, ..nic(2) }).await.unwrap();
        assert_eq!(tap.fds.len(), 4);
        let data = link(tap.name.as_str()).unwrap()["linkinfo"]["info_data"].clone();
        assert_eq!((&data["multi_queue"], &data["numqueues"]), (&true.into(), &4.into()), "{data}");
        let mut fds = tap.fds;
        fds.truncate(1);
        assert!(link(tap.name.as_str()).is_some(), "a queue is left");
        drop(fds);
        goes().await;
        let single = network.attach(nic(3)).await.unwrap();
        let data = link(single.name.as_str()).unwrap()["linkinfo"]["info_data"].clone();
        assert_eq!((single.fds.len(), &data["multi_queue"]), (1, &false.into()), "{data}");
    });
}

#[test]
fn a_hint_is_followed_when_it_is_valid_and_free() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let hinted = |number, hint: &str| NicAttachment { tap_hint: Some(hint.to_owned()), ..nic(number) };
        let first = network.attach(hinted(2, "tap0")).await.unwrap();
        assert_eq!(first.name.as_str(), "tap0");
        let second = network.attach(hinted(3, "tap0")).await.unwrap();
        assert!(second.name.as_str().starts_with("pw-vm-3-"), "{}", second.name);
        assert_eq!(
            second.warnings[0].to_string(),
            "the wished TAP name is not used: another interface of this host is called tap0"
        );
        let third = network.attach(hinted(4, "no/such name")).await.unwrap();
        assert!(third.name.as_str().starts_with("pw-vm-4-"), "{}", third.name);

        // A persistent TAP that nobody holds open is not ours to take.
        run("ip tuntap add tap9 mode tap");
        let fourth = network.attach(hinted(5, "tap9")).await.unwrap();
        assert!(fourth.name.as_str().starts_with("pw-vm-5-"), "{}", fourth.name);

        let fifth = network.attach(hinted(6, "vt-web")).await.unwrap();
        assert!(fifth.name.as_str().starts_with("pw-vm-6-"), "{}", fifth.name);
        assert_eq!(
            fifth.warnings[0].to_string(),
            "the wished TAP name is not used: vt-web is a name like vt-*, which belong to systemd-networkd"
        );
    });
}

#[test]
fn a_derived_name_that_is_taken_is_stepped_over() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let usual = network.attach(nic(2)).await.unwrap();
        let usual_name = usual.name.clone();
        network.detach(&VmId::new("vm-2"), "net0").await.unwrap();
        run(&format!("ip tuntap add {usual_name} mode tap"));
        let other = network.attach(nic(2)).await.unwrap();
        assert_ne!(other.name, usual_name);
        assert_eq!(link(other.name.as_str()).unwrap()["master"], BRIDGE);
        drop(usual);
    });
}

/// Attachments that are refused while `nic(2)` is attached, and what is said of each.
fn unattachable() -> Vec<(NicAttachment, &'static str)> {
    let bridge_mac = link(BRIDGE).unwrap()["address"].as_str().unwrap().parse().unwrap();
    vec![
        (nic(2), "cannot attach vm-2/net0: it is attached already; detach it first"),
        (
            NicAttachment { address: nic(2).address, ..nic(3) },
            "cannot attach vm-3/net0: the address 10.100.1.2 belongs to vm-2/net0",
        ),
        (
            NicAttachment { mac: nic(2).mac, ..nic(3) },
            "cannot attach vm-3/net0: the MAC address 02:50:0a:64:01:02 belongs to vm-2/net0",
        ),
        (
            NicAttachment { address: Ipv4Addr::new(10, 101, 0, 2), ..nic(3) },
            "cannot attach vm-3/net0: the address 10.101.0.2 is no VM's address in the network 10.100.0.0/16",
        ),
        (
            NicAttachment { address: Ipv4Addr::new(10, 100, 0, 1), ..nic(3) },
            "cannot attach vm-3/net0: the address 10.100.0.1 is no VM's address in the network 10.100.0.0/16",
        ),
        (
            NicAttachment { mtu: Some(9000), ..nic(3) },
            "cannot attach vm-3/net0: its MTU of 9000 is out of range: 576 to the bridge's 1500 is accepted",
        ),
        (
            NicAttachment { mask: Some(Ipv4Addr::new(255, 0, 255, 0)), ..nic(3) },
            "cannot attach vm-3/net0: 255.0.255.0 is no netmask: ones followed by zeros are accepted",
        ),
        (NicAttachment { mac: bridge_mac, ..nic(3) }, "is no unicast MAC address of a VM"),
    ]
}

#[test]
fn what_cannot_be_attached_is_refused_and_leaves_nothing() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let _held = network.attach(nic(2)).await.unwrap();
        let before = link_names();
        for (attachment, expected) in unattachable() {
            let error = network.attach(attachment).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(link_names(), before);
        network.attach(nic(3)).await.expect("a refusal holds nothing");
    });
}

#[test]
fn a_bridge_that_is_gone_or_full_fails_the_attachment_alone() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut script = String::new();
        for pair in 0..host_network::BRIDGE_PORT_LIMIT.div_ceil(2) {
            script.push_str(&format!("link add p{pair} type veth peer name q{pair}\n"));
            script.push_str(&format!("link set p{pair} master {BRIDGE}\n"));
            if 2 * pair + 1 < host_network::BRIDGE_PORT_LIMIT {
                script.push_str(&format!("link set q{pair} master {BRIDGE}\n"));
            }
        }
        let path = std::env::temp_dir().join(format!("procurator-ports-{}", std::process::id()));
        std::fs::write(&path, script).unwrap();
        run(&format!("ip -batch {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        let error = network.attach(nic(2)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot attach vm-2/net0: the bridge br-test has all of its 1023 ports in use"
        );
        assert!(!link_names().iter().any(|name| name.starts_with("pw-")));
        run("ip link del p7");
        network.attach(nic(2)).await.expect("a port is free");

        // It is made again by somebody who was told; an attachment just then fails alone, and leaves nothing.
        run("ip link del br-test");
        if let Err(error) = network.attach(nic(3)).await {
            assert!(error_chain(&error).contains("attach pw-vm-3-"), "{}", error_chain(&error));
            assert!(!link_names().iter().any(|name| name.starts_with("pw-vm-3")));
        }
    });
}

#[test]
fn orphans_are_reaped_and_the_rest_is_left() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let mut held = Vec::new();
        for number in 2..=4 {
            held.push(earlier.attach(nic(number)).await.unwrap());
        }
        earlier.shutdown(Teardown::Keep).await.unwrap();
        // Not ours, though it looks like it.
        run("ip tuntap add pw-else-aaaaa mode tap");

        let network = HostNetwork::start(config()).await.unwrap();
        let own = network.attach(nic(5)).await.unwrap();
        let keep = BTreeSet::from([VmId::new("vm-3")]);
        let reaped = network.reap_orphans(&keep).await.unwrap();
        let vms: Vec<&str> = reaped.iter().map(|orphan| orphan.vm.as_str()).collect();
        assert_eq!(vms, ["vm-2", "vm-4"]);
        let mut left = link_names();
        left.sort();
        let mut expected = vec![
            BRIDGE.to_owned(),
            "lo".to_owned(),
            "pw-else-aaaaa".to_owned(),
            held[1].name.to_string(),
            own.name.to_string(),
        ];
        expected.sort();
        assert_eq!(left, expected);
    });
}

#[test]
fn a_dropped_attachment_leaves_nothing() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        for patience in 0..20_u32 {
            let attach = network.attach(nic(2));
            let outcome =
                tokio::time::timeout(std::time::Duration::from_micros(u64::from(patience) * 100), attach);
            if outcome.await.is_ok() {
                network.detach(&VmId::new("vm-2"), "net0").await.unwrap();
            }
            eventually("the TAP is gone", async || {
                (!link_names().iter().any(|name| name.starts_with("pw-"))).then_some(())
            })
            .await;
        }
        network.attach(nic(2)).await.expect("no place is held");
    });
}

#[test]
fn many_are_attached_at_once() {
    in_namespace(async || {
        let network = Arc::new(HostNetwork::start(config()).await.unwrap());
        let mut attaching = JoinSet::new();
        for number in 2..34 {
            let network = Arc::clone(&network);
            attaching.spawn(async move { network.attach(nic(number)).await.unwrap() });
        }
        let taps = attaching.join_all().await;
        let ports = links().into_iter().filter(|link| link["master"] == BRIDGE).count();
        assert_eq!((taps.len(), ports), (32, 32));
        let network = Arc::into_inner(network).expect("every task has ended");
        let outcome = network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(outcome, TeardownOutcome::Removed);
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn dropped_without_shutdown_it_is_silent_and_the_links_stay() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        drop(network);
        assert_eq!(link(tap.name.as_str()).unwrap()["master"], BRIDGE);
        // Its port is free again once the task has ended.
        eventually("port 67 is released", async || std::net::UdpSocket::bind("10.100.0.1:67").ok()).await;
    });
}

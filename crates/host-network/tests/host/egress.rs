//! What restricted guests reach beyond their network, with real connections.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use host_network::{HostNetwork, NicAttachment, Teardown};
use vm_model::NetworkAccess;

use crate::guest::Guest;
use crate::namespaces::{Host, config, eventually, in_namespace, nic, run};

const PATIENCE: Duration = Duration::from_millis(700);

fn access(egress: &[&str]) -> NetworkAccess {
    NetworkAccess {
        forwards: vec!["8080:80".parse().unwrap()],
        egress: Some(egress.iter().map(|rule| rule.parse().unwrap()).collect()),
    }
}

fn restricted(egress: &[&str]) -> NicAttachment {
    NicAttachment { access: access(egress), ..nic(2) }
}

/// A guest on the network, with its address and route.
async fn guest(network: &HostNetwork, nic: NicAttachment) -> Guest {
    let tap = network.attach(nic.clone()).await.unwrap();
    let guest = Guest::behind(&tap, &nic).await;
    guest.host.run(&["ip", "address", "add", "10.100.1.2/16", "dev", "eth0"]).await.unwrap();
    guest.host.run(&["ip", "route", "add", "default", "via", "10.100.0.1"]).await.unwrap();
    eventually("the router", async || {
        guest.host.run(&["busybox", "ping", "-c", "1", "-W", "1", "10.100.0.1"]).await.ok()
    })
    .await;
    guest
}

/// Two machines beyond the host, 198.51.100.2 and 203.0.113.2, that listen on ports 80 and 81.
pub(crate) async fn beyond() -> Host {
    let beyond = Host::new();
    run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
    for (own, theirs) in [("198.51.100.1/24", "198.51.100.2/24"), ("203.0.113.1/24", "203.0.113.2/24")] {
        run(&format!("ip address add {own} dev wan"));
        beyond.run(&["ip", "address", "add", theirs, "dev", "eth0"]).await.unwrap();
    }
    run("ip link set wan up");
    beyond.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    for port in [80, 81] {
        let listener = beyond.on(move || TcpListener::bind(("0.0.0.0", port)).unwrap()).await;
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    beyond
}

pub(crate) async fn connects(from: &Host, address: &'static str) -> bool {
    from.on(move || TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE).is_ok()).await
}

#[test]
fn a_restricted_guest_reaches_what_its_list_has_and_answers_others() {
    in_namespace(async || {
        run("ip link set lo up");
        let beyond = beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let list = ["198.51.100.0/24:80", "203.0.113.0/24", "203.0.113.2/32", "203.0.113.2:80"];
        let guest = guest(&network, restricted(&list)).await;
        assert!(connects(&guest.host, "198.51.100.2:80").await, "a port");
        assert!(!connects(&guest.host, "198.51.100.2:81").await, "another port");
        assert!(connects(&guest.host, "203.0.113.2:81").await, "a network");
        let ping = |address| ["busybox", "ping", "-c", "1", "-W", "1", address];
        guest.host.run(&ping("203.0.113.2")).await.unwrap();
        assert!(guest.host.run(&ping("198.51.100.2")).await.is_err(), "no other protocol");

        // What others open is answered.
        let listener = guest.host.on(|| TcpListener::bind("0.0.0.0:80").unwrap()).await;
        thread::spawn(move || listener.incoming().for_each(drop));
        let answered = beyond.on(|| {
            let mut stream =
                TcpStream::connect_timeout(&"198.51.100.1:8080".parse().unwrap(), PATIENCE).ok()?;
            stream.read(&mut [0]).ok()
        });
        assert_eq!(answered.await, Some(0), "it is closed by the guest");
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_restricted_guest_stays_so_without_a_worker_and_when_rules_are_flushed() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let guest = guest(&network, restricted(&["203.0.113.0/24"])).await;
        let holds = async || {
            connects(&guest.host, "203.0.113.2:80").await && !connects(&guest.host, "198.51.100.2:80").await
        };
        assert!(holds().await);
        network.shutdown(Teardown::Keep).await.unwrap();
        assert!(holds().await, "without a worker");
        let network = HostNetwork::start(config()).await.unwrap();
        assert!(holds().await, "before the VM is known");
        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::start(config()).await.unwrap();
        run("nft flush set ip procurator-br-test restricted");
        eventually("restricted again", async || holds().await.then_some(())).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn an_empty_list_is_nothing() {
    in_namespace(async || {
        let _beyond = beyond().await;
        let network = HostNetwork::start(config()).await.unwrap();
        let guest = guest(&network, restricted(&[])).await;
        assert!(!connects(&guest.host, "203.0.113.2:80").await);
        let restricted_guests = || run("nft list set ip procurator-br-test restricted");
        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert!(!restricted_guests().contains("10.100.1.2"), "it ends with its VM");

        // It starts again at once, under its address: what is tidied up of the one before leaves it as it is.
        let _tap = network.attach(restricted(&[])).await.unwrap();
        let _other = network.attach(nic(3)).await.unwrap();
        eventually("two ports alone", async || {
            let macs = run("nft list set bridge procurator-br-test macs");
            (macs.matches("02:50:").count() == 2).then_some(())
        })
        .await;
        assert!(restricted_guests().contains("10.100.1.2"));
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

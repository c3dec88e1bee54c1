//! What somebody changes underneath is noticed within a second, and mended or told.

use std::time::{Duration, Instant};

use host_network::{BridgeOrigin, HostNetwork, Teardown};
use tokio::sync::watch;

use crate::namespaces::{
    BRIDGE, Host, addresses, config, eventually, in_namespace, link, link_names, nic, run, try_run,
};

/// Asks again until it is so; it must be within a second, and on a loaded machine a little later.
async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    eventually(what, async || is_so().then_some(())).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{what}: after {:?}", start.elapsed());
}

fn ruleset() -> String {
    run("nft -s list ruleset")
}

fn flags(name: &str) -> String {
    link(name).map_or_else(String::new, |link| link["flags"].to_string())
}

fn sysctl(name: &str) -> String {
    run(&format!("sysctl -n {name}")).trim().to_owned()
}

async fn tells(degraded: &mut watch::Receiver<Vec<String>>, part: &str) {
    let told = degraded.wait_for(|told| told.iter().any(|sentence| sentence.contains(part)));
    let told = tokio::time::timeout(Duration::from_secs(3), told).await.is_ok();
    assert!(told, "nobody tells of `{part}`: {:?}", *degraded.borrow());
}

async fn is_well(degraded: &mut watch::Receiver<Vec<String>>) {
    let well = tokio::time::timeout(Duration::from_secs(5), degraded.wait_for(Vec::is_empty)).await.is_ok();
    assert!(well, "still degraded: {:?}", *degraded.borrow());
}

#[test]
fn flushed_rules_come_back() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let before = ruleset();
        run("nft flush ruleset");
        soon("the table is there again", || ruleset() == before).await;
        run("nft flush chain ip procurator-br-test forward");
        soon("the rules are there again", || ruleset() == before).await;
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn the_bridge_gets_its_address_and_its_state_back() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        run(&format!("ip address flush dev {BRIDGE}"));
        soon("the address", || addresses(BRIDGE) == ["10.100.0.1/16"]).await;
        run(&format!("ip link set {BRIDGE} down"));
        soon("the bridge is up", || flags(BRIDGE).contains("\"UP\"")).await;
        run(&format!("ip link set {BRIDGE} type bridge stp_state 1"));
        soon("no spanning tree", || link(BRIDGE).unwrap()["linkinfo"]["info_data"]["stp_state"] == 0).await;
        run(&format!("sysctl -q net.ipv6.conf.{BRIDGE}.disable_ipv6=0"));
        soon("no IPv6", || sysctl("net.ipv6.conf.br-test.disable_ipv6") == "1").await;
        assert_eq!(link(tap.name.as_str()).unwrap()["master"], BRIDGE);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn a_conflict_is_told_and_keeps_nothing_from_being_mended() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        run("ip link add lan up type bridge");
        // A VPN's: the bridge's route is longer.
        run("ip route add 0.0.0.0/1 dev lan");
        run("ip route add 10.100.3.0/24 dev lan");
        tells(
            &mut degraded,
            "a route to 10.100.3.0/24 leads through lan; VMs with addresses of 10.100.3.0/24",
        )
        .await;
        assert!(!degraded.borrow().iter().any(|told| told.contains("0.0.0.0/1")), "{:?}", *degraded.borrow());
        run(&format!("ip address flush dev {BRIDGE}"));
        soon("the address", || addresses(BRIDGE) == ["10.100.0.1/16"]).await;
        run(&format!("ip link set {BRIDGE} down"));
        soon("the bridge is up", || flags(BRIDGE).contains("\"UP\"")).await;
        run("ip link del lan");
        is_well(&mut degraded).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_renamed_bridge_gets_its_name_back_and_the_host_is_closed_to_vms_meanwhile() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let index = link(BRIDGE).unwrap()["ifindex"].clone();
        assert!(
            ruleset().contains(&format!("iif \"{BRIDGE}\" goto from_vms")),
            "by its index: {}",
            ruleset()
        );
        run(&format!("ip link set {BRIDGE} down"));
        let _ = try_run(&["ip", "link", "set", BRIDGE, "name", "br-foo"]);
        soon("it has its name", || link(BRIDGE).is_some_and(|bridge| bridge["ifindex"] == index)).await;
        soon("it is up", || flags(BRIDGE).contains("\"UP\"")).await;
        soon("it has its address", || addresses(BRIDGE) == ["10.100.0.1/16"]).await;
        // While no worker runs, nobody renames it; the rules know it by its index.
        network.shutdown(Teardown::Keep).await.unwrap();
        run(&format!("ip link set {BRIDGE} down"));
        run(&format!("ip link set {BRIDGE} name br-foo"));
        assert!(ruleset().contains("iif \"br-foo\" goto from_vms"), "{}", ruleset());
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(
            (network.report().bridge, &link(BRIDGE).unwrap()["ifindex"]),
            (BridgeOrigin::Ours, &index)
        );
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn anothers_bridge_that_is_renamed_is_missed_by_its_new_name() {
    in_namespace(async || {
        run(&format!("ip link add {BRIDGE} type bridge"));
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        run(&format!("ip link set {BRIDGE} down"));
        let _ = try_run(&["ip", "link", "set", BRIDGE, "name", "br-foo"]);
        if link("br-foo").is_some() {
            tells(&mut degraded, "the bridge br-test is called br-foo now").await;
            run("ip link set br-foo name br-test");
        }
        is_well(&mut degraded).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_tap_that_ends_leaves_no_elements_behind() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        assert!(ruleset().contains("10.100.1.2"));
        drop(tap);
        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert!(!ruleset().contains("10.100.1.2"), "{}", ruleset());
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_deleted_bridge_is_made_again_with_its_taps() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        let tap = network.attach(nic(2)).await.unwrap();
        run(&format!("ip link del {BRIDGE}"));
        soon("the TAP is a port again", || {
            link(tap.name.as_str()).is_some_and(|tap| tap["master"] == BRIDGE)
        })
        .await;
        soon("the address", || addresses(BRIDGE) == ["10.100.0.1/16"]).await;
        soon("it forwards", || sysctl("net.ipv4.conf.br-test.forwarding") == "1").await;
        is_well(&mut degraded).await;
        network.attach(nic(3)).await.expect("new VMs start");
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn anothers_bridge_that_is_deleted_is_missed_until_it_is_back() {
    in_namespace(async || {
        run(&format!("ip link add {BRIDGE} type bridge"));
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        let tap = network.attach(nic(2)).await.unwrap();
        run(&format!("ip link del {BRIDGE}"));
        tells(&mut degraded, "the bridge br-test was deleted, and was not made by this worker").await;
        run(&format!("ip link add {BRIDGE} type bridge"));
        is_well(&mut degraded).await;
        soon("the TAP is a port again", || {
            link(tap.name.as_str()).is_some_and(|tap| tap["master"] == BRIDGE)
        })
        .await;
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo", BRIDGE]);
    });
}

#[test]
fn a_tap_is_brought_up_and_attached_again_and_a_deleted_one_is_told() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        let tap = network.attach(nic(2)).await.unwrap();
        let name = tap.name.as_str();
        run(&format!("ip link set {name} down"));
        soon("it is up", || flags(name).contains("\"UP\"")).await;
        run(&format!("ip link set {name} nomaster"));
        soon("it is a port", || link(name).unwrap()["master"] == BRIDGE).await;
        run("ip link add br-else type bridge");
        run(&format!("ip link set {name} master br-else"));
        soon("it is a port of ours", || link(name).unwrap()["master"] == BRIDGE).await;
        assert!(degraded.borrow().is_empty());

        run(&format!("ip link del {name}"));
        tells(&mut degraded, "so vm-2/net0 has no network until its VM starts again: restart vm-2").await;
        network.detach(&nic(2).vm, "net0").await.unwrap();
        is_well(&mut degraded).await;
        let again = network.attach(nic(2)).await.unwrap();
        assert_eq!(link(again.name.as_str()).unwrap()["master"], BRIDGE);
    });
}

#[test]
fn links_that_come_later_and_a_switched_off_host_are_forwarded_for() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=1");
        let network = HostNetwork::start(config()).await.unwrap();
        assert!(!ruleset().contains("this host forwards for VMs only"), "nobody needs guarding");
        let beyond = Host::new();
        run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
        run("ip address add 198.51.100.1/24 dev wan");
        run("sysctl -q net.ipv4.ip_forward=0");
        run("ip link set wan up");
        soon("the bridge forwards", || sysctl("net.ipv4.conf.br-test.forwarding") == "1").await;
        soon("so does the link that leads out", || sysctl("net.ipv4.conf.wan.forwarding") == "1").await;
        assert!(ruleset().contains("iif \"wan\" oifname != \"br-test\" ct state"), "{}", ruleset());
        assert_eq!(sysctl("net.ipv4.ip_forward"), "0");

        // Its owner wants forwarding for everybody after all.
        run("sysctl -q net.ipv4.ip_forward=1");
        soon("nobody is guarded", || !ruleset().contains("this host forwards for VMs only")).await;
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(
            (sysctl("net.ipv4.ip_forward"), sysctl("net.ipv4.conf.wan.forwarding")),
            ("1".into(), "1".into())
        );
    });
}

#[test]
fn anothers_drop_is_told_while_it_lasts() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut degraded = network.watch_degraded();
        run("nft add table ip filter");
        let chain = [
            "nft",
            "add",
            "chain",
            "ip",
            "filter",
            "FORWARD",
            "{ type filter hook forward priority 0 ; policy drop ; }",
        ];
        try_run(&chain).unwrap();
        tells(&mut degraded, "the chain ip filter FORWARD drops what it does not accept").await;
        // Whoever writes a rule about the bridge knows of it.
        run("nft add rule ip filter FORWARD iifname br-test accept");
        is_well(&mut degraded).await;
        run("nft flush chain ip filter FORWARD");
        tells(&mut degraded, "the chain ip filter FORWARD drops").await;
        run("nft delete table ip filter");
        is_well(&mut degraded).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_static_entry_that_a_bridge_has_lost_comes_back() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        let mac = nic(2).mac.to_string();
        let is_entered = || {
            let entries = run(&format!("bridge fdb show br {BRIDGE}"));
            entries.lines().any(|line| line.starts_with(&mac) && line.contains("static"))
        };
        assert!(is_entered());
        run(&format!("bridge fdb delete {mac} dev {} master", tap.name));
        soon("the entry is there again", is_entered).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

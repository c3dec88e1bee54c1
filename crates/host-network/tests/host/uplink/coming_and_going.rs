//! Uplinks that are taken away, unplugged, or not there yet.

use super::*;

#[test]
fn an_uplink_that_was_taken_away_is_put_back_and_its_absence_is_told() {
    in_namespace(async || {
        let beyond = machine_beyond().await;
        run("ip link set eth1 up");
        let network = HostNetwork::start(with_uplink()).await.unwrap();
        let degraded = network.watch_degraded();
        for change in ["ip link set eth1 nomaster", "ip link set eth1 down"] {
            run(change);
            eventually(change, async || (uplink_now() == (Some(BRIDGE.to_owned()), true)).then_some(()))
                .await;
        }
        run("ip link delete eth1");
        let told = eventually("its absence is told", async || degraded.borrow().first().cloned()).await;
        assert!(told.contains("the uplink eth1 of the bridge br-test is not there"), "{told}");
        run(&format!("ip link add eth1 type veth peer name far1 netns {}", beyond.name()));
        beyond.run(&["ip", "link", "set", "far1", "up"]).await.unwrap();
        eventually("it is back", async || degraded.borrow().is_empty().then_some(())).await;
        assert_eq!(uplink_now(), (Some(BRIDGE.to_owned()), true));
        let rules = run(&format!("nft list chain bridge procurator-{BRIDGE} every_frame"));
        assert!(rules.contains("iif \"eth1\" goto from_outside"), "the new one is filtered: {rules}");

        // Another uplink in the configuration: the former one goes back.
        network.shutdown(Teardown::Keep).await.unwrap();
        run("ip link add eth2 type veth peer name far2");
        let network = HostNetwork::start(with("eth2", None)).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
        assert!(link("eth2").unwrap()["master"].is_null());
    });
}

#[test]
fn an_interface_that_the_host_needs_is_refused_and_left_alone() {
    in_namespace(async || {
        let _beyond = machine_beyond().await;
        run("ip address add 192.0.2.7/24 dev eth1");
        assert!(
            refusal(with_uplink()).await.contains("192.0.2.7/24, at which this host would not be reached")
        );
        run("ip address flush dev eth1");
        run("ip link set eth1 up");
        run("ip route add default dev eth1");
        assert!(refusal(with_uplink()).await.contains("this host's route to 0.0.0.0/0"));
        run("ip route del default");
        run("ip link add br-other type bridge");
        run("ip link set eth1 master br-other");
        assert!(refusal(with_uplink()).await.contains("is a port of br-other already"));
        assert_eq!(uplink_now(), (Some("br-other".to_owned()), true));
        assert_eq!(addresses("eth1"), [""; 0]);
    });
}

#[test]
fn an_uplink_that_comes_later_keeps_no_network_from_starting_and_guests_wait_for_it() {
    in_namespace(async || {
        let network = HostNetwork::start(with_uplink()).await.unwrap();
        let missing = "the uplink eth1 of the bridge br-test is not there";
        let degraded = network.watch_degraded();
        let told = eventually("it is told", async || degraded.borrow().first().cloned()).await;
        assert!(told.starts_with(missing), "{told}");
        let refused = network.attach(nic(2)).await.unwrap_err().to_string();
        assert!(refused.starts_with(missing), "{refused}");

        // It comes with an address, which is this host's: it is not taken from it.
        let beyond = machine_beyond().await;
        run("ip address add 192.0.2.7/24 dev eth1");
        let refused = eventually("its address is told", async || {
            let refused = network.attach(nic(2)).await.err()?.to_string();
            refused.contains("192.0.2.7/24, at which this host would not be reached").then_some(refused)
        })
        .await;
        assert_eq!(uplink_now().0, None, "{refused}");
        run("ip address flush dev eth1");
        eventually("the bridge has it", async || {
            (uplink_now() == (Some(BRIDGE.to_owned()), true)).then_some(())
        })
        .await;
        let tap = eventually("the guest is let in", async || network.attach(nic(2)).await.ok()).await;
        let guest = Guest::behind(&tap, &nic(2)).await;
        let state = tempfile::tempdir().unwrap();
        configure_by_dhcp(&guest.host, &client_script(state.path(), "guest")).await;
        reaches(&guest.host, BEYOND).await;
        let rules = run(&format!("nft list chain bridge procurator-{BRIDGE} every_frame"));
        assert!(rules.contains("iif \"eth1\" goto from_outside"), "what comes in is filtered: {rules}");
        eventually("all is well", async || degraded.borrow().is_empty().then_some(())).await;
        drop(guest);
        drop(beyond);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn an_uplink_to_which_nothing_is_connected_is_told() {
    in_namespace(async || {
        let beyond = machine_beyond().await;
        let network = HostNetwork::start(with_uplink()).await.unwrap();
        let degraded = network.watch_degraded();
        eventually("all is well", async || degraded.borrow().is_empty().then_some(())).await;
        beyond.run(&["ip", "link", "set", "far0", "down"]).await.unwrap();
        let told = eventually("it is told", async || degraded.borrow().first().cloned()).await;
        assert!(told.starts_with("the uplink eth1 of the bridge br-test has no carrier"), "{told}");
        // Guests have their neighbours and this host all the same.
        network.attach(nic(2)).await.unwrap();
        beyond.run(&["ip", "link", "set", "far0", "up"]).await.unwrap();
        eventually("it is mended", async || degraded.borrow().is_empty().then_some(())).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

//! The bridge: made, made again, adopted, refused, removed.

use std::fs;

use host_network::{
    BridgeOrigin, Egress, HostForwarding, HostNetwork, LinkName, NetworkConfig, Teardown, TeardownOutcome,
};
use rustix::thread::UnshareFlags;
use vm_model::error_chain;

use crate::namespaces::{
    BRIDGE, addresses, config, enter_new_namespace, eventually, in_namespace, link, link_names, nic, run,
};

#[test]
fn a_bridge_is_made_found_again_and_removed() {
    in_namespace(async || {
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(network.report().bridge, BridgeOrigin::Created);
        assert_eq!(
            network.report().host_forwarding,
            HostForwarding::ForVmsOnly { links: vec![], owners: vec![] }
        );
        let made = link(BRIDGE).unwrap();
        assert_eq!(made["ifalias"], "procurator:bridge");
        assert!(made["address"].as_str().unwrap().starts_with("06:50:"), "{made}");
        assert_eq!(made["linkinfo"]["info_data"]["stp_state"], 0);
        assert_eq!(made["linkinfo"]["info_data"]["forward_delay"], 0);
        assert_eq!(made["linkinfo"]["info_data"]["mcast_snooping"], 0);
        assert!(made["flags"].as_array().unwrap().contains(&"UP".into()), "{made}");
        assert_eq!(addresses(BRIDGE), ["10.100.0.1/16"]);
        let forwarding = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/forwarding");
        assert_eq!(fs::read_to_string(forwarding).unwrap(), "1\n");
        assert_eq!(network.shutdown(Teardown::Keep).await.unwrap(), TeardownOutcome::Kept);

        // What somebody changed meanwhile is put right; what is right stays.
        run("ip link set br-test down mtu 1400");
        run("ip link set br-test type bridge stp_state 1 ageing_time 0 group_fwd_mask 8 mcast_snooping 1");
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(network.report().bridge, BridgeOrigin::Ours);
        let found = link(BRIDGE).unwrap();
        assert_eq!((&found["ifindex"], &found["address"]), (&made["ifindex"], &made["address"]));
        assert_eq!(found["mtu"], 1500);
        for setting in ["stp_state", "forward_delay", "ageing_time", "group_fwd_mask", "mcast_snooping"] {
            let (was, is) =
                (&made["linkinfo"]["info_data"][setting], &found["linkinfo"]["info_data"][setting]);
            assert_eq!(is, was, "{setting}");
        }
        assert_eq!(addresses(BRIDGE), ["10.100.0.1/16"]);

        let outcome = network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(outcome, TeardownOutcome::Removed);
        assert_eq!(link_names(), ["lo"]);
        assert_eq!(run("nft list tables"), "");
    });
}

#[test]
fn the_bridges_address_does_not_follow_its_ports() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let before = link(BRIDGE).unwrap()["address"].clone();
        run("ip link add low type veth peer name far");
        run("ip link set low address 00:00:00:00:00:01 master br-test up");
        assert_eq!(link(BRIDGE).unwrap()["address"], before);
        let outcome = network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(outcome, TeardownOutcome::InUse { ports: vec!["low".to_owned()] });
        assert!(link(BRIDGE).is_some(), "somebody else's link is still attached to it");
    });
}

#[test]
fn anothers_bridge_is_adopted_and_left_as_it_was() {
    in_namespace(async || {
        run("ip link add br-test address 02:00:00:00:00:77 type bridge forward_delay 700");
        run("ip link set br-test mtu 9000");
        let before = link(BRIDGE).unwrap();
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(network.report().bridge, BridgeOrigin::Adopted);
        let tap = network.attach(nic(2)).await.unwrap();
        assert_eq!(link(tap.name.as_str()).unwrap()["master"], BRIDGE);
        assert_eq!(network.shutdown(Teardown::Remove).await.unwrap(), TeardownOutcome::Adopted);
        let after = link(BRIDGE).unwrap();
        for field in ["ifindex", "mtu", "address"] {
            assert_eq!(after[field], before[field], "{field}");
        }
        assert_eq!(after["linkinfo"]["info_data"]["forward_delay"], 700);
        assert!(addresses(BRIDGE).is_empty());
        assert_eq!(link_names(), ["lo", BRIDGE]);
    });
}

#[test]
fn an_adopted_hub_is_a_bridge_meanwhile_and_small_packets_are_told() {
    in_namespace(async || {
        run("ip link add br-test mtu 1400 type bridge ageing_time 0 stp_state 1");
        let network = HostNetwork::start(config()).await.unwrap();
        let ageing = || link(BRIDGE).unwrap()["linkinfo"]["info_data"]["ageing_time"].clone();
        assert_eq!(ageing(), 30_000);
        let told: Vec<String> = network.report().warnings.iter().map(ToString::to_string).collect();
        for part in ["MTU of 1400", "ageing time of 0", "spanning tree"] {
            assert!(told.iter().any(|warning| warning.contains(part)), "{part}: {told:?}");
        }
        let tap = network.attach(nic(2)).await.unwrap();
        assert_eq!(link(tap.name.as_str()).unwrap()["mtu"], 1400);
        assert_eq!(network.config().mtu, 1400);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(ageing(), 0);
    });
}

#[test]
fn a_name_taken_by_another_kind_of_link_is_refused() {
    in_namespace(async || {
        run("ip link add br-test type veth peer name far");
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the link br-test is no bridge but a veth link: remove it or configure another bridge name"
        );
        run("ip link del br-test");
        run("ip tuntap add br-test mode tap");
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert!(error.to_string().contains("no bridge but a tun link"), "{error}");
        assert!(addresses(BRIDGE).is_empty());
    });
}

#[test]
fn a_subnet_in_use_is_refused_and_nothing_is_made() {
    in_namespace(async || {
        run("ip link add lan type veth peer name far");
        run("ip link set far up");
        run("ip link set lan up");
        run("ip address add 10.100.3.4/24 dev lan");
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network 10.100.0.0/16 is in use on this host: link lan has the address 10.100.3.4/24; configure \
             another subnet"
        );
        run("ip address flush dev lan");
        run("ip route add 10.100.128.0/17 dev lan");
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network 10.100.0.0/16 is in use on this host: a route to 10.100.128.0/17 leads through lan; \
             configure another subnet"
        );
        assert!(link(BRIDGE).is_none());
        run("ip route del 10.100.128.0/17 dev lan");
        run("ip route add default dev lan");
        HostNetwork::start(config()).await.expect("a default route is no use of the subnet");
    });
}

#[test]
fn a_late_failure_leaves_no_bridge() {
    in_namespace(async || {
        // An nft that cannot be run, for this thread and its children alone.
        enter_new_namespace(UnshareFlags::NEWNS);
        run("mount --make-rprivate /");
        let nft = run("which nft");
        run(&format!("mount --bind /dev/null {nft}"));
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert!(
            error_chain(&error)
                .contains("cannot apply the nftables tables procurator-br-test: cannot run nft: "),
            "{}",
            error_chain(&error)
        );
        assert_eq!(link_names(), ["lo"]);

        let mut isolated = config();
        isolated.egress = Egress::Isolated;
        HostNetwork::start(isolated).await.expect_err("an nft that is there must work");
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn an_isolated_network_forwards_nothing() {
    in_namespace(async || {
        let mut config = config();
        config.egress = Egress::Isolated;
        let network = HostNetwork::start(config).await.unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        assert!(!run("nft -s list ruleset").contains("leave under the host's address"));
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(run("nft list tables"), "");
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn a_second_worker_is_refused_by_name_and_takes_nothing_away() {
    in_namespace(async || {
        let first = HostNetwork::start(config()).await.unwrap();
        let before = (run("nft -s list ruleset"), addresses(BRIDGE), link_names());
        let error = HostNetwork::start(config()).await.unwrap_err();
        let process = std::process::id();
        let expected = format!("the bridge br-test cannot be used: process {process} (");
        assert!(error.to_string().starts_with(&expected), "{error}");
        let elsewhere = NetworkConfig { bridge: LinkName::parse("br-other").unwrap(), ..config() };
        let error = HostNetwork::start(elsewhere).await.unwrap_err();
        assert!(
            error.to_string().starts_with("the nftables table procurator-br-test cannot be used"),
            "{error}"
        );
        assert_eq!((run("nft -s list ruleset"), addresses(BRIDGE), link_names()), before);

        // Another bridge and another subnet are another network.
        let other =
            NetworkConfig::new(LinkName::parse("br-other").unwrap(), "10.101.0.0/16".parse().unwrap());
        let second = HostNetwork::start(other.clone()).await.unwrap();
        second.shutdown(Teardown::Remove).await.unwrap();
        // While it was there, the first one guarded its link.
        eventually("all is as before", async || {
            ((run("nft -s list ruleset"), addresses(BRIDGE), link_names()) == before).then_some(())
        })
        .await;
        let overlapping = NetworkConfig { subnet: "10.100.4.0/24".parse().unwrap(), ..other };
        let overlapping = NetworkConfig { gateway: "10.100.4.1".parse().unwrap(), ..overlapping };
        let error = HostNetwork::start(overlapping).await.unwrap_err();
        assert!(error.to_string().contains("link br-test has the address 10.100.0.1/16"), "{error}");

        first.shutdown(Teardown::Remove).await.unwrap();
        let next = HostNetwork::start(config()).await.expect("it is free again");
        next.shutdown(Teardown::Remove).await.unwrap();
    });
}

//! Several networks of one worker: a machine may be in more than one, and what is in one is not heard in another.

use host_network::{
    HostNetwork, Leftovers, LinkName, NetworkConfig, NicAttachment, Teardown, remove_leftovers,
};
use vm_model::{MacAddress, NetworkAccess};

use crate::forwards::{greet, greeting_at, machine_beyond};
use crate::guest::Guest;
use crate::namespaces::{
    BRIDGE, addresses, config, eventually, in_namespace, kept, link, link_names, nic, run, try_run,
};
use crate::reach::{client_script, configure_by_dhcp, reaches};

const SECOND_BRIDGE: &str = "br-second";

/// The network `10.100.0.0/16` of the other tests, and beside it `10.101.0.0/16`.
fn two_networks() -> [NetworkConfig; 2] {
    let [one, other] = [BRIDGE, SECOND_BRIDGE].map(|name| LinkName::parse(name).unwrap());
    let second = NetworkConfig::new(other.clone(), "10.101.0.0/16".parse().unwrap());
    let dns = config().dns;
    [NetworkConfig { peers: vec![other], ..config() }, NetworkConfig { peers: vec![one], dns, ..second }]
}

/// Interface `net1` of the VM `vm-<number>`, which is in the second network.
fn second_nic(number: u8) -> NicAttachment {
    NicAttachment {
        nic: "net1".to_owned(),
        mac: MacAddress::new([2, 0x50, 10, 101, 1, number]),
        address: [10, 101, 1, number].into(),
        ..nic(number)
    }
}

#[test]
fn a_bridge_of_ours_loses_the_address_of_its_former_subnet_once_no_guest_needs_it() {
    in_namespace(async || {
        let state = tempfile::tempdir().unwrap();
        let of = |subnet: &str| NetworkConfig {
            state_dir: Some(state.path().to_owned()),
            ..NetworkConfig::new(LinkName::parse(BRIDGE).unwrap(), subnet.parse().unwrap())
        };
        let network = HostNetwork::start(of("10.100.0.0/16")).await.unwrap();
        run(&format!("ip address add 192.0.2.7/24 dev {BRIDGE}"));
        let tap = network.attach(nic(2)).await.unwrap();
        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::resume(of("10.101.0.0/16"), vec![kept(2, &tap.name)]).await.unwrap();
        assert_eq!(
            addresses(BRIDGE),
            ["10.100.0.1/16", "192.0.2.7/24", "10.101.0.1/16"],
            "its guest runs on"
        );
        network.shutdown(Teardown::Keep).await.unwrap();
        drop(tap);
        let network = HostNetwork::start(of("10.101.0.0/16")).await.unwrap();
        assert_eq!(addresses(BRIDGE), ["192.0.2.7/24", "10.101.0.1/16"]);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert!(!state.path().join("host-settings.json").exists());
    });
}

#[test]
fn an_address_that_an_interface_has_which_nobody_named_is_given_to_no_other() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        network.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::start(config()).await.unwrap();
        let other = NicAttachment { address: nic(2).address, ..nic(3) };
        let problem = network.attach(other.clone()).await.unwrap_err();
        let told = std::error::Error::source(&problem).map_or_else(String::new, ToString::to_string);
        assert!(format!("{problem} {told}").contains("vm-2/net0"), "{problem}: {told}");
        drop(tap);
        eventually("its TAP is gone", async || network.attach(other.clone()).await.ok()).await;
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn a_machine_has_addresses_of_both_networks_and_guests_of_different_ones_are_kept_apart() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let beyond = machine_beyond().await;
        let [one, other] = two_networks();
        let first = HostNetwork::start(one).await.unwrap();
        let second = HostNetwork::start(other).await.unwrap();
        let forwards = vec!["8081:81".parse().unwrap()];
        let neighbour = NicAttachment { access: NetworkAccess { forwards, egress: None }, ..second_nic(3) };
        let tap = first.attach(nic(2)).await.unwrap();
        let in_first = Guest::behind(&tap, &nic(2)).await;
        let second_tap = second.attach(second_nic(2)).await.unwrap();
        let in_second = Guest::behind(&second_tap, &second_nic(2)).await;
        let neighbour_tap = second.attach(neighbour.clone()).await.unwrap();
        let neighbour = Guest::behind(&neighbour_tap, &neighbour).await;

        let told = configure_by_dhcp(&in_first.host, &client_script(directory.path(), "first")).await;
        assert_eq!(told, "10.100.1.2/16 via 10.100.0.1 dns 192.0.2.53 for vm-2\n");
        let told = configure_by_dhcp(&in_second.host, &client_script(directory.path(), "second")).await;
        assert_eq!(told, "10.101.1.2/16 via 10.101.0.1 dns 192.0.2.53 for vm-2\n");
        configure_by_dhcp(&neighbour.host, &client_script(directory.path(), "third")).await;

        reaches(&in_second.host, "10.101.1.3").await;
        reaches(&in_first.host, "198.51.100.2").await;
        reaches(&in_second.host, "198.51.100.2").await;
        greet(&neighbour.host, 81, "hello").await;
        // The link beyond is guarded by the first network's table, which lets in what is for the second.
        let greeted = eventually("a greeting", async || greeting_at(&beyond, "198.51.100.1:8081").await);
        assert_eq!(greeted.await, "hello 198.51.100.2");

        for address in ["10.101.1.2", "10.101.1.3"] {
            let ping = ["busybox", "ping", "-c", "2", "-W", "1", address];
            assert!(
                in_first.host.run(&ping).await.is_err(),
                "{address} answers a guest of the other network"
            );
        }
        assert_eq!(greeting_at(&in_first.host, "198.51.100.1:8081").await, None, "nor by a port of the host");
        let rules = run(&format!("nft list table ip procurator-{BRIDGE}"));
        let kept_apart = rules.lines().find(|line| line.contains("kept apart")).unwrap();
        assert!(!kept_apart.contains("packets 0"), "it is this rule that drops: {kept_apart}");
        reaches(&in_first.host, "10.101.0.1").await;

        first.shutdown(Teardown::Remove).await.unwrap();
        reaches(&in_second.host, "10.101.1.3").await;
        second.shutdown(Teardown::Remove).await.unwrap();
        assert!(!link_names().iter().any(|name| name.starts_with("br-")), "{:?}", link_names());
    });
}

#[test]
fn what_is_left_of_a_network_goes_once_no_machine_is_in_it() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let [_, config] = two_networks();
        let config = NetworkConfig { state_dir: Some(directory.path().to_owned()), ..config };
        assert_eq!(remove_leftovers(&config).await.unwrap(), Leftovers::Removed, "nothing was left");
        let network = HostNetwork::start(config.clone()).await.unwrap();
        let tap = network.attach(second_nic(2)).await.unwrap();
        let refused = remove_leftovers(&config).await.unwrap_err().to_string();
        assert!(refused.contains(SECOND_BRIDGE), "a network at work is left alone: {refused}");
        network.shutdown(Teardown::Keep).await.unwrap();

        let ports = vec![tap.name.to_string()];
        assert_eq!(remove_leftovers(&config).await.unwrap(), Leftovers::CarriesVms { ports });
        assert!(link(SECOND_BRIDGE).is_some() && link(tap.name.as_str()).is_some());
        let table = format!("procurator-{SECOND_BRIDGE}");
        assert!(
            try_run(&["nft", "list", "table", "bridge", &table]).is_ok(),
            "its machine is bound as before"
        );
        drop(tap);
        eventually("the network is removed", async || {
            (remove_leftovers(&config).await.unwrap() == Leftovers::Removed).then_some(())
        })
        .await;
        assert_eq!(link_names(), ["lo"]);
        assert_eq!(run("nft list tables"), "");
        assert!(!directory.path().join("host-settings.json").exists());
    });
}

//! A worker ends and another starts, while VMs hold their TAPs: the TAPs are found, mended, and given up when asked.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use host_network::{
    BridgeOrigin, HostNetwork, KeptNicProblem, LinkName, NetworkConfig, StartWarning, Teardown,
    TeardownOutcome, UnknownNic,
};
use rustix::thread::UnshareFlags;
use vm_model::error_chain;

use crate::namespaces::{
    BRIDGE, addresses, config, enter_new_namespace, eventually, in_namespace, kept, link, link_names, nic,
    run,
};

/// Whether a link is up and a port of the bridge with this MTU.
fn is_port(name: &LinkName, mtu: u16) -> bool {
    link(name.as_str()).is_some_and(|link| {
        let is_up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        is_up && link["master"] == BRIDGE && link["mtu"] == mtu
    })
}

#[test]
fn kept_taps_count_as_attached_and_lost_ones_are_told() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let (first, second) = (earlier.attach(nic(2)).await.unwrap(), earlier.attach(nic(3)).await.unwrap());
        let (gone, replaced) = (earlier.attach(nic(4)).await.unwrap(), earlier.attach(nic(5)).await.unwrap());
        let named = [&first, &second, &gone, &replaced].map(|tap| tap.name.clone());
        // As little as from a worker that was killed.
        drop(earlier);
        drop((gone, replaced));
        run(&format!("ip tuntap add {} mode tap", named[3]));
        let indices = [&first, &second].map(|tap| link(tap.name.as_str()).unwrap()["ifindex"].clone());

        let names = (2..).zip(&named).map(|(number, name)| kept(number, name)).collect();
        let network = HostNetwork::resume(config(), names).await.unwrap();
        let told: Vec<String> = network.report().warnings.iter().map(ToString::to_string).collect();
        let after = "the VM has no network there until it starts again";
        let expected = [
            format!("the TAP {} of vm-4/net0 is gone: {after}", named[2]),
            format!(
                "the TAP {} of vm-5/net0 is gone, and a tun link without an alias has its name: {after}",
                named[3]
            ),
        ];
        assert_eq!(told, expected);
        let mut degraded = network.watch_degraded();
        let names_both = |told: &Vec<String>| told.len() == 2 && told[0].contains("vm-4/net0 has no network");
        tokio::time::timeout(Duration::from_secs(5), degraded.wait_for(names_both))
            .await
            .expect("told")
            .unwrap();

        let error = network.attach(nic(2)).await.unwrap_err();
        assert!(error.to_string().contains("it is attached already"), "{error}");
        network.attach(nic(4)).await.expect("one that was lost can be attached");
        network.detach(&nic(5).vm, "net0").await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), degraded.wait_for(Vec::is_empty))
            .await
            .expect("well")
            .unwrap();
        let reaped = network.reap_orphans(&BTreeSet::new()).await.unwrap();
        assert_eq!(reaped, [], "kept TAPs are no orphans");
        let now = [&first, &second].map(|tap| link(tap.name.as_str()).unwrap()["ifindex"].clone());
        assert_eq!(now, indices);

        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert!(link(named[0].as_str()).is_none());
        assert_eq!(network.shutdown(Teardown::Remove).await.unwrap(), TeardownOutcome::Removed);
        assert!(link(named[1].as_str()).is_none(), "a kept TAP goes with the rest");
        assert!(link(named[3].as_str()).is_some(), "another's does not");
    });
}

#[test]
fn what_happened_to_taps_meanwhile_is_mended() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let mut taps = Vec::new();
        for number in 2..=4 {
            taps.push(earlier.attach(nic(number)).await.unwrap());
        }
        earlier.shutdown(Teardown::Keep).await.unwrap();
        run(&format!("ip link set {} nomaster", taps[0].name));
        run(&format!("ip link set {} down", taps[1].name));
        run(&format!("ip link set {} mtu 1400", taps[2].name));
        run(&format!("ip link set {} down", taps[2].name));
        run(&format!("ip link set {} name mine", taps[2].name));
        let names = || (2..).zip(&taps).map(|(number, tap)| kept(number, &tap.name)).collect();
        let network = HostNetwork::resume(config(), names()).await.unwrap();
        assert_eq!(network.report().warnings, []);
        let all_are_ports = async || taps.iter().all(|tap| is_port(&tap.name, 1500)).then_some(());
        eventually("each is a port again", all_are_ports).await;

        // The bridge itself was deleted while nobody looked.
        network.shutdown(Teardown::Keep).await.unwrap();
        run(&format!("ip link del {BRIDGE}"));
        let network = HostNetwork::resume(config(), names()).await.unwrap();
        assert_eq!(network.report().bridge, BridgeOrigin::Created);
        eventually("each is a port of the new one", all_are_ports).await;

        // And now it is watched as ever.
        run(&format!("ip link set {} nomaster", taps[0].name));
        eventually("it is a port again", all_are_ports).await;
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo"]);
    });
}

#[test]
fn vms_that_run_are_taken_over_whoever_uses_their_network_since() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let tap = earlier.attach(nic(2)).await.unwrap();
        earlier.shutdown(Teardown::Keep).await.unwrap();
        run("ip link add lan up type bridge");
        run("ip address add 10.100.3.4/24 dev lan");
        // Also where nobody has named the VMs that run.
        for names in [vec![kept(2, &tap.name)], vec![]] {
            let network = HostNetwork::resume(config(), names).await.unwrap();
            let mut degraded = network.watch_degraded();
            let told = degraded
                .wait_for(|told| told.iter().any(|it| it.contains("lan has the address 10.100.3.4/24")));
            tokio::time::timeout(Duration::from_secs(5), told).await.expect("it is told").unwrap();
            network.shutdown(Teardown::Keep).await.unwrap();
        }
        drop(tap);
        let error = HostNetwork::start(config()).await.unwrap_err();
        assert!(error.to_string().contains("in use on this host: link lan"), "no VM runs: {error}");
    });
}

#[test]
fn vms_that_run_are_no_reason_to_take_a_network_that_others_have() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let tap = earlier.attach(nic(2)).await.unwrap();
        earlier.shutdown(Teardown::Keep).await.unwrap();
        run("ip link add wan up type bridge");
        run("ip address add 192.0.2.1/24 dev wan");
        let before = addresses(BRIDGE);
        let moved = NetworkConfig::new(config().bridge, "192.0.2.0/25".parse().unwrap());
        for names in [vec![kept(2, &tap.name)], vec![]] {
            let error = HostNetwork::resume(moved.clone(), names).await.unwrap_err();
            assert!(error.to_string().contains("192.0.2.0/25 is in use on this host: link wan"), "{error}");
        }
        assert_eq!(addresses(BRIDGE), before, "nothing is applied");
        let surveyed = host_network::survey(&moved, None).await.unwrap();
        assert_eq!((surveyed.runs_vms, surveyed.serves_subnet), (true, false));
        // The network that they have is theirs still.
        let network = HostNetwork::resume(config(), vec![kept(2, &tap.name)]).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn taps_that_nobody_names_are_reported_with_their_addresses() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let taps = [earlier.attach(nic(2)).await.unwrap(), earlier.attach(nic(3)).await.unwrap()];
        earlier.shutdown(Teardown::Keep).await.unwrap();
        let network = HostNetwork::resume(config(), vec![kept(2, &taps[0].name)]).await.unwrap();
        let (vm, tap) = (nic(3).vm, taps[1].name.to_string());
        let unknown =
            UnknownNic { vm, nic: "net0".to_owned(), tap, mac: nic(3).mac, address: nic(3).address };
        assert_eq!(network.report().unknown, [unknown]);
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

#[test]
fn an_address_that_is_not_of_the_network_any_more_costs_no_port() {
    in_namespace(async || {
        let earlier = HostNetwork::start(config()).await.unwrap();
        let tap = earlier.attach(nic(2)).await.unwrap();
        earlier.shutdown(Teardown::Keep).await.unwrap();
        let outside = host_network::KeptNic { address: [192, 0, 2, 1].into(), ..kept(2, &tap.name) };
        let network = HostNetwork::resume(config(), vec![outside]).await.unwrap();
        let [StartWarning::KeptNic { problem: KeptNicProblem::NoDhcp(_), .. }] =
            &network.report().warnings[..]
        else {
            panic!("{:?}", network.report().warnings);
        };
        assert!(is_port(&tap.name, 1500));
        let mut degraded = network.watch_degraded();
        let told = degraded
            .wait_for(|told| told.iter().any(|it| it.contains("vm-2/net0 has 192.0.2.1, an address of")));
        tokio::time::timeout(Duration::from_secs(5), told).await.expect("it is told").unwrap();
        network.detach(&nic(2).vm, "net0").await.unwrap();
        assert_eq!(link_names(), ["lo", BRIDGE]);
    });
}

#[test]
fn anothers_bridge_gets_everything_back_after_any_number_of_restarts() {
    in_namespace(async || {
        run(&format!("ip link add {BRIDGE} up type bridge ageing_time 0"));
        let state = tempfile::tempdir().unwrap();
        let config = || NetworkConfig { state_dir: Some(state.path().to_owned()), ..config() };
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        network.shutdown(Teardown::Keep).await.unwrap();
        for ending in [Teardown::Keep, Teardown::Remove] {
            let network = HostNetwork::resume(config(), vec![kept(2, &tap.name)]).await.unwrap();
            assert_eq!(network.report().bridge, BridgeOrigin::Adopted);
            assert_eq!(addresses(BRIDGE), ["10.100.0.1/16"]);
            assert!(state.path().join("host-settings.json").exists());
            network.shutdown(ending).await.unwrap();
        }
        assert!(addresses(BRIDGE).is_empty());
        assert_eq!(link(BRIDGE).unwrap()["linkinfo"]["info_data"]["ageing_time"], 0);
        assert_eq!(run(&format!("sysctl -n net.ipv4.conf.{BRIDGE}.forwarding")), "0\n");
        assert_eq!(link_names(), ["lo", BRIDGE]);
        assert!(fs::read_dir(state.path()).unwrap().next().is_none(), "nothing is noted any more");
    });
}

#[test]
fn a_start_that_fails_leaves_running_vms_their_network() {
    in_namespace(async || {
        // What is mounted below is seen by this thread and those that it starts, alone.
        enter_new_namespace(UnshareFlags::NEWNS);
        run("mount --make-rprivate /");
        let state = tempfile::tempdir().unwrap();
        let config = || NetworkConfig { state_dir: Some(state.path().to_owned()), ..config() };
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        network.shutdown(Teardown::Keep).await.unwrap();
        let rules = run("nft -s list ruleset");

        // nft is not to be found.
        let real = fs::canonicalize(run("which nft").trim()).unwrap();
        let programs = real.parent().unwrap();
        let empty = tempfile::tempdir().unwrap();
        run(&format!("mount --bind {} {}", empty.path().display(), programs.display()));
        let error = HostNetwork::resume(config(), vec![kept(2, &tap.name)]).await.unwrap_err();
        assert!(error_chain(&error).contains("nft is not on PATH"), "{}", error_chain(&error));
        rustix::mount::unmount(programs, rustix::mount::UnmountFlags::DETACH).unwrap();

        assert_eq!(run("nft -s list ruleset"), rules);
        assert_eq!(run(&format!("sysctl -n net.ipv4.conf.{BRIDGE}.forwarding")), "1\n");
        assert_eq!(addresses(BRIDGE), ["10.100.0.1/16"]);
        assert!(is_port(&tap.name, 1500));
        let network = HostNetwork::resume(config(), vec![kept(2, &tap.name)]).await.unwrap();
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!((link_names(), run("nft list tables")), (vec!["lo".to_owned()], String::new()));
    });
}

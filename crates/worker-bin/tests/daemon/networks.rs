//! Several networks of one worker, as an operator has them: configured, shown, survived, and taken out of the configuration.

use std::fs;

use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated, links};

const STORAGE: &str = "[networks.storage]\nbridge = 'br-storage'\nsubnet = '10.76.0.0/24'\nnat = false\n";

/// Assigns a VM `a` with an interface in each network, and adds the further one to the configuration. Gives back the
/// configuration without it.
fn with_storage(bench: &Bench) -> String {
    bench.leave_guests();
    let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
    bench.configure(&format!("{before}{STORAGE}"));
    let more = json!({
        "net": [{}, {}],
        "procurator": { "net": [{ "id": "net1", "network": "storage" }] },
    });
    let artifact = bench.artifact("a", &TinyGuest::power_button(), &more, "x");
    bench.assign(&[json!({ "id": "a", "hash": artifact.hash, "store_path": artifact.path })]);
    before
}

/// Name, network, address and TAP of each of the VM's interfaces.
fn interfaces(bench: &Bench) -> Vec<Value> {
    bench.vms()[0]["interfaces"].as_array().cloned().unwrap_or_default()
}

/// What a dry run of the assignments says that are in force.
fn plan(bench: &Bench) -> String {
    let file = bench.path("vms.json");
    said(bench, &["plan", "--assignments", file.to_str().expect("a name of text")])
}

fn said(bench: &Bench, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&bench.client(arguments).stdout).into_owned()
}

#[test]
fn both_networks_are_shown_and_survive_the_worker() {
    isolated(|bench| {
        with_storage(&bench);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let before = interfaces(&bench);
        let shown: Vec<(&str, &str)> = before
            .iter()
            .map(|nic| (nic["network"].as_str().unwrap_or(""), nic["address"].as_str().unwrap_or("")))
            .collect();
        assert_eq!(shown, [("default", "10.78.0.2"), ("storage", "10.76.0.2")]);
        let wires = links();
        let list = said(&bench, &["ls"]);
        assert!(list.contains("10.78.0.2, 10.76.0.2 (storage)"), "{list}");
        let details = said(&bench, &["inspect", "a"]);
        assert!(details.contains("net1: network storage, 10.76.0.2, "), "{details}");
        let status = said(&bench, &["status"]);
        assert!(status.contains("storage: 10.76.0.0/24 on br-storage"), "{status}");

        for _ in 0..2 {
            daemon.kill();
            assert_eq!(links(), wires, "both networks stay");
            daemon = bench.start();
            assert_eq!((bench.phases(), interfaces(&bench)), (vec!["a running".to_owned()], before.clone()));
            assert_eq!(bench.status()["degradations"], json!([]));
        }
        // Its interfaces are looked after again.
        let tap = before[1]["tap"].as_str().expect("a TAP").to_owned();
        let pulled = std::process::Command::new("ip").args(["link", "set", &tap, "nomaster"]).status();
        assert!(pulled.expect("started").success());
        bench.until("it is put back", || {
            let shown =
                std::process::Command::new("ip").args(["link", "show", &tap]).output().expect("started");
            String::from_utf8_lossy(&shown.stdout).contains("master br-storage")
        });
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
    });
}

#[test]
fn a_network_that_is_configured_no_more_goes_when_no_vm_is_in_it() {
    isolated(|bench| {
        let without = with_storage(&bench);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let before = interfaces(&bench);
        daemon.kill();

        bench.configure(&without);
        daemon = bench.start();
        let mut marked = before;
        marked[1]["mismatch"] = "network_removed".into();
        assert_eq!((bench.phases(), interfaces(&bench)), (vec!["a running".to_owned()], marked));
        let details = said(&bench, &["inspect", "a"]);
        assert!(
            details.contains("net1 is in the network \"storage\", which is not configured any more"),
            "{details}"
        );
        assert!(links().contains(&"br-storage".to_owned()), "a VM is in it: {:?}", links());
        let removed = "its network is not configured any more";
        let list = said(&bench, &["ls"]);
        assert!(list.contains("10.78.0.2, 10.76.0.2 (storage, removed)"), "{list}");
        assert!(list.contains(&format!("interface net1: {removed}")), "{list}");
        let told = "the network \"storage\" is not configured any more, and VMs run in it";
        let status = said(&bench, &["status"]);
        assert!(status.contains(told) && status.contains("start again: a\n"), "{status}");
        let plan = plan(&bench);
        assert!(plan.contains(&format!("a runs on with its interface net1 as it is: {removed}")), "{plan}");

        let refused = bench.client(&["restart", "a", "--force"]);
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.contains("\"storage\" (procurator.net), which this worker does not have"),
            "{refused}"
        );
        assert_eq!(bench.phases(), ["a running"], "it is looked at before its guest is ended");
        bench.client(&["stop", "a", "--force"]);
        assert!(!said(&bench, &["status"]).contains(told), "no VM runs in it");
        daemon.kill();
        daemon = bench.start();
        assert!(!links().contains(&"br-storage".to_owned()), "nothing is in it: {:?}", links());
        let tables = std::process::Command::new("nft").args(["list", "tables"]).output().expect("started");
        assert!(!String::from_utf8_lossy(&tables.stdout).contains("br-storage"));

        // Once it is configured again, all is as it was.
        daemon.kill();
        bench.configure(&format!("{without}{STORAGE}"));
        daemon = bench.start();
        bench.client(&["start", "a"]);
        bench.until("it runs", || bench.phases() == ["a running"]);
        assert_eq!(interfaces(&bench)[1]["address"], "10.76.0.2");
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.kill();
    });
}

#[test]
fn a_vm_that_runs_on_with_addresses_of_before_is_told_until_it_has_others() {
    isolated(|bench| {
        let six = "ipv6_subnet = 'fd00:76::/64'\n";
        let without = with_storage(&bench);
        bench.configure(&format!("{without}{STORAGE}{six}"));
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let given = interfaces(&bench)[1]["ipv6"].as_str().expect("an IPv6 address").to_owned();
        assert!(given.starts_with("fd00:76::"), "{given}");
        daemon.kill();

        // Another prefix of IPv6 alone.
        bench.configure(&format!("{without}{STORAGE}{}", six.replace("76", "77")));
        daemon = bench.start();
        let details = said(&bench, &["inspect", "a"]);
        let now = given.replace("fd00:76::", "fd00:77::");
        assert!(
            details.contains(&format!("its interface net1 has {now} once its guest asks again")),
            "{details}"
        );
        assert_eq!(interfaces(&bench)[1]["mismatch"], json!({ "ipv6_changed": { "given": given } }));
        daemon.kill();

        // No IPv6 any more.
        bench.configure(&format!("{without}{STORAGE}"));
        daemon = bench.start();
        let status = said(&bench, &["status"]);
        assert!(status.contains("the IPv6 addresses of the network \"storage\" were taken away"), "{status}");
        daemon.kill();

        // Other addresses.
        let moved = STORAGE.replace("10.76.", "10.77.");
        bench.configure(&format!("{without}{moved}"));
        daemon = bench.start();
        assert_eq!(bench.phases(), ["a running"]);
        let list = said(&bench, &["ls"]);
        assert!(list.contains("10.76.0.2 (storage, former)"), "{list}");
        assert!(list.contains("interface net1: its network is 10.77.0.0/24 now"), "{list}");
        let details = said(&bench, &["inspect", "a"]);
        assert!(details.contains("net1: network storage, 10.76.0.2 (former), "), "{details}");
        let status = said(&bench, &["status"]);
        assert!(
            status.contains("the network \"storage\" is 10.77.0.0/24 now, and VMs have addresses"),
            "{status}"
        );
        assert!(plan(&bench).contains("its network is 10.77.0.0/24 now"), "{}", plan(&bench));
        let again = bench.client(&["restart", "a", "--force"]);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        bench.until("it runs", || bench.phases() == ["a running"]);
        let list = said(&bench, &["ls", "--wide"]);
        assert!(list.contains("10.77.0.2 (storage)"), "{list}");
        assert!(!said(&bench, &["status"]).contains("addresses of before"));
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.kill();
    });
}

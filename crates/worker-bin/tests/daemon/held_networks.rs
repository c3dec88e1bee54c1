//! Networks whose change waits because VMs run that could not be in them as they are configured now.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::network_conflicts::{checked, degradations, ip, said};

const LAN: &str = "[networks.lan]\nbridge = 'br-lan'\nsubnet = '10.76.0.0/24'\n";

/// An assignment of a VM with one interface, in the network of the tests, and `more` of its definition.
fn vm(bench: &Bench, id: &str, image: &str, more: &Value) -> Value {
    let own = json!({ "net": [{ "id": "net0", "network": "lan" }] });
    let mut procurator = own.as_object().expect("an object").clone();
    procurator.extend(more.as_object().expect("an object").clone());
    let config = json!({ "net": [{}], "procurator": procurator });
    let artifact = bench.artifact(image, &TinyGuest::power_button(), &config, "x");
    json!({ "id": id, "hash": artifact.hash, "store_path": artifact.path })
}

fn planned(bench: &Bench) -> String {
    let file = bench.path("vms.json");
    said(&bench.client(&["plan", "--assignments", file.to_str().expect("text")]))
}

#[test]
fn a_network_gets_no_uplink_while_a_vm_with_a_list_of_destinations_runs_in_it() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("{before}{LAN}"));
        let bound = json!({ "egress": ["10.0.0.0/8"] });
        let free = vm(&bench, "b", "free", &json!({}));
        bench.assign(&[vm(&bench, "a", "bound", &bound), free.clone()]);
        let mut daemon = bench.start();
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        let neighbour = bench.vms()[1]["interfaces"].clone();
        daemon.kill();

        ip("link add up0 type veth peer name out0");
        ip("link set out0 up");
        bench.configure(&format!("{before}{LAN}uplink = 'up0'\nhost_address = '10.76.0.250'\n"));
        let (_, told) = checked(&bench);
        assert!(
            told.contains("networks.lan: VMs run in it that cannot be in it as it is configured"),
            "{told}"
        );
        daemon = bench.start();
        assert_eq!(bench.phases(), ["a running", "b running"]);
        let is_joined = || ip("link show up0").contains("master br-lan");
        let held = "network lan: the network stays as it was before while VMs run in it";
        let told = degradations(&bench);
        assert!(told.contains(held) && told.contains("; a: it may open connections"), "{told}");
        assert!(bench.log().contains("the network stays as it was before"), "{}", bench.log());
        assert!(!is_joined(), "its frames would leave without this host");
        let status = said(&bench.client(&["status"]));
        assert!(status.contains("10.76.0.0/24 on br-lan until it can have up0"), "{status}");
        let address = ip("-4 address show br-lan");
        assert!(address.contains("10.76.0.1/24") && !address.contains("10.76.0.250"), "{address}");
        assert!(planned(&bench).contains("the network stays as it was before"), "{}", planned(&bench));
        let refused = said(&bench.client(&["restart", "a", "--force"]));
        assert!(refused.contains("its network has the uplink up0"), "{refused}");
        let again = bench.client(&["restart", "b", "--force"]);
        assert!(again.status.success(), "others start in it: {}", said(&again));
        assert!(!is_joined());

        bench.assign(&[vm(&bench, "a", "unbound", &json!({})), free]);
        bench.until("nothing is told", || degradations(&bench) == "[]");
        assert!(is_joined());
        let address = ip("-4 address show br-lan");
        assert!(address.contains("10.76.0.250/24"), "{address}");
        assert_eq!(bench.phases(), ["a running", "b running"]);
        assert_eq!(bench.vms()[1]["interfaces"][0]["address"], neighbour[0]["address"]);
        for vm in bench.vms() {
            let tap = vm["interfaces"][0]["tap"].as_str().expect("a TAP").to_owned();
            assert!(ip(&format!("link show {tap}")).contains("master br-lan"));
        }
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("they are gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_network_goes_on_giving_addresses_while_ports_of_the_host_lead_to_a_vm_in_it() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("{before}{LAN}"));
        bench.assign(&[vm(&bench, "a", "image", &json!({ "ports": ["8080:80"] }))]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.kill();

        ip("link add up0 type veth peer name out0");
        ip("link set out0 up");
        bench.configure(&format!("{before}{LAN}nat = false\naddresses = 'external'\nuplink = 'up0'\n"));
        daemon = bench.start();
        let told = degradations(&bench);
        assert!(told.contains("; a: ports of this host are to lead to it"), "{told}");
        assert!(ip("-4 address show br-lan").contains("10.76.0.1/24"));
        // What it is to be holds after another start of the worker, too.
        daemon.kill();
        daemon = bench.start();
        assert_eq!(degradations(&bench), told);
        bench.client(&["stop", "a", "--force"]);
        bench.until("it is as configured", || degradations(&bench) == "[]");
        assert!(!ip("-4 address show br-lan").contains("10.76.0.1"), "this host has no address there");
        assert!(ip("link show up0").contains("master br-lan"));
        let details = said(&bench.client(&["inspect", "a"]));
        assert!(details.contains("given by others (10.76.0.2 is kept for it)"), "{details}");
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_network_keeps_its_bridge_while_what_has_the_new_name_is_none() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.assign(&[vm_in_default(&bench)]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.kill();

        ip("link add br-new type veth peer name out0");
        // Another one, by which it is seen that all were looked at again.
        ip("link add wan up type bridge");
        ip("address add 10.76.0.9/24 dev wan");
        bench.configure(&format!("{before}bridge = 'br-new'\n{LAN}"));
        daemon = bench.start();
        let held = "the network keeps its bridge br-procurator, because br-new cannot be had: the link br-new is no bridge";
        assert!(degradations(&bench).contains(held), "{}", degradations(&bench));
        bench.client(&["stop", "a", "--force"]);
        ip("link delete wan");
        bench.until("all are looked at again", || !degradations(&bench).contains("network lan"));
        assert!(degradations(&bench).contains(held), "{}", degradations(&bench));
        let again = bench.client(&["start", "a"]);
        assert!(again.status.success(), "{}", said(&again));
        bench.until("it runs", || bench.phases() == ["a running"]);
        bench.client(&["stop", "a", "--force"]);

        // Nor does another worker end it.
        daemon.kill();
        daemon = bench.start();
        assert!(degradations(&bench).contains(held), "{}", degradations(&bench));
        ip("link delete br-new");
        bench.until("it has the other", || degradations(&bench) == "[]");
        assert!(ip("link show br-new").contains("br-new") && !ip("link").contains("br-procurator"));
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

fn vm_in_default(bench: &Bench) -> Value {
    let artifact = bench.artifact("a", &TinyGuest::power_button(), &json!({ "net": [{}] }), "x");
    json!({ "id": "a", "hash": artifact.hash, "store_path": artifact.path })
}

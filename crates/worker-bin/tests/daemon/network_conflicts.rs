//! Networks that this host does not let be as they are configured: each waits alone, and VMs that run keep what they have.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated, links};

fn storage(subnet: &str) -> String {
    format!("[networks.storage]\nbridge = 'br-storage'\nsubnet = '{subnet}'\nnat = false\n")
}

/// Adds `text` to the configuration as it was `before`.
fn configure(bench: &Bench, before: &str, text: &str) {
    bench.configure(&format!("{before}{text}"));
}

/// An assignment of a VM with one interface, in the network `network`.
fn vm(bench: &Bench, id: &str, network: &str) -> Value {
    let more = json!({ "net": [{}], "procurator": { "net": [{ "id": "net0", "network": network }] } });
    let artifact = bench.artifact(id, &TinyGuest::power_button(), &more, "x");
    json!({ "id": id, "hash": artifact.hash, "store_path": artifact.path })
}

pub(crate) fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("started");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A link of the host's own with this address.
fn wan(address: &str) {
    ip("link add wan up type bridge");
    ip(&format!("address add {address} dev wan"));
}

pub(crate) fn degradations(bench: &Bench) -> String {
    bench.status()["degradations"].to_string()
}

pub(crate) fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What `check-config` says of the configuration, and whether it is sound.
pub(crate) fn checked(bench: &Bench) -> (bool, String) {
    let mut command = Command::new(&bench.program);
    command
        .arg("check-config")
        .arg(bench.path("worker.toml"))
        .env("PROCURATOR_STATE_DIR", bench.path("state"));
    let output = command.env("PROCURATOR_STORE_ROOTS", bench.path("store")).output().expect("started");
    (output.status.success(), said(&output))
}

fn tables() -> String {
    let output = Command::new("nft").args(["list", "tables"]).output().expect("started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn vms_that_run_are_no_reason_to_take_a_network_that_the_host_is_in() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &storage("10.76.0.0/24"));
        bench.assign(&[vm(&bench, "a", "storage")]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let interfaces = bench.vms()[0]["interfaces"].clone();
        daemon.kill();

        wan("192.0.2.1/24");
        configure(&bench, &before, &storage("192.0.2.0/25"));
        let (is_sound, told) = checked(&bench);
        let conflict = "link wan has the address 192.0.2.1/24";
        assert!(!is_sound && told.contains(conflict) && told.contains("networks.storage.subnet"), "{told}");
        daemon = bench.start();
        assert_eq!(bench.phases(), ["a running"]);
        assert_eq!(bench.vms()[0]["interfaces"], interfaces, "it runs on as it was");
        let bridge = ip("-4 address show br-storage");
        assert!(
            bridge.contains("10.76.0.1/24") && !bridge.contains("192.0.2."),
            "nothing is applied: {bridge}"
        );
        let told = degradations(&bench);
        assert!(told.contains("network storage: the network is not set up as it is configured"), "{told}");
        assert!(told.contains(conflict) && told.contains("go on as before (a)"), "{told}");
        let refused = said(&bench.client(&["restart", "a", "--force"]));
        assert!(
            refused.contains("the network \"storage\" is not set up") && refused.contains(conflict),
            "{refused}"
        );
        assert_eq!(bench.phases(), ["a running"], "it is looked at before its guest is ended");

        bench.client(&["stop", "a", "--force"]);
        ip("address del 192.0.2.1/24 dev wan");
        bench.until("it is tried again", || degradations(&bench) == "[]");
        bench.client(&["start", "a"]);
        bench.until("it runs", || bench.phases() == ["a running"]);
        assert_eq!(bench.vms()[0]["interfaces"][0]["address"], "192.0.2.2");
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.kill();
    });
}

#[test]
fn a_network_in_conflict_keeps_no_other_from_being_there() {
    isolated(|bench| {
        wan("10.76.0.9/24");
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &storage("10.76.0.0/24"));
        bench.assign(&[vm(&bench, "a", "storage"), vm(&bench, "b", "default")]);
        let mut daemon = bench.start();
        bench.until("the other runs", || bench.phases().contains(&"b running".to_owned()));
        let reason = "the network \"storage\" is not set up: the network 10.76.0.0/24 is in use on this host: link wan has the \
                      address 10.76.0.9/24";
        bench.until("it is told", || said(&bench.client(&["inspect", "a"])).contains(reason));
        assert!(degradations(&bench).contains("no VM starts in it"), "{}", degradations(&bench));
        ip("link del wan");
        bench.until("it is tried again", || bench.phases() == ["a running", "b running"]);
        assert_eq!(degradations(&bench), "[]");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!((links(), tables()), (vec!["lo".to_owned()], String::new()));
    });
}

#[test]
fn a_bridge_with_another_name_takes_the_place_of_the_former_once_no_vm_is_there() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.assign(&[vm(&bench, "a", "default")]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.kill();

        configure(&bench, &before, "bridge = 'br-new'\n");
        let (is_sound, told) = checked(&bench);
        assert!(is_sound && told.contains("VMs run on br-procurator, the bridge so far"), "{told}");
        daemon = bench.start();
        assert_eq!(bench.phases(), ["a running"]);
        let has = |name: &str| links().contains(&name.to_owned());
        assert!(has("br-procurator") && !has("br-new"), "{:?}", links());
        let status = said(&bench.client(&["status"]));
        assert!(status.contains("on br-procurator until it can be on br-new"), "{status}");
        let held = "the network keeps its bridge br-procurator while VMs run there; br-new is made in its place once nothing is on it";
        assert!(degradations(&bench).contains(held), "{}", degradations(&bench));
        let file = bench.path("vms.json");
        let planned = said(&bench.client(&["plan", "--assignments", file.to_str().expect("text")]));
        assert!(planned.contains(held), "{planned}");
        let again = bench.client(&["restart", "a", "--force"]);
        assert!(again.status.success(), "VMs start there still: {}", said(&again));

        bench.client(&["stop", "a", "--force"]);
        bench.until("the new one is there", || has("br-new") && !has("br-procurator"));
        bench.until("nothing is told", || degradations(&bench) == "[]");
        assert!(!tables().lines().any(|line| line.ends_with(" procurator")), "{}", tables());
        bench.client(&["start", "a"]);
        bench.until("it runs", || bench.phases() == ["a running"]);
        bench.client(&["stop", "a", "--force"]);
        daemon.kill();

        // While no VM runs, at once.
        bench.configure(&before);
        daemon = bench.start();
        assert!(has("br-procurator") && !has("br-new"), "{:?}", links());
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!((links(), tables()), (vec!["lo".to_owned()], String::new()));
    });
}

#[test]
fn two_networks_that_swap_bridges_are_never_on_one() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &storage("10.79.0.0/24"));
        bench.assign(&[vm(&bench, "s", "storage")]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["s running"]);
        daemon.kill();

        let swapped = storage("10.79.0.0/24").replace("br-storage", "br-procurator");
        configure(&bench, &before, &format!("bridge = 'br-storage'\n{swapped}"));
        daemon = bench.start();
        bench.until("its VM runs on", || bench.phases() == ["s running"]);
        let told = degradations(&bench);
        assert!(told.contains("has the bridge br-storage still"), "{told}");
        let addresses = ip("-o -4 address show dev br-storage");
        assert!(addresses.contains("10.79.0.1") && !addresses.contains("10.78.0.1"), "{addresses}");

        bench.client(&["stop", "s", "--force"]);
        bench.until("both are as configured", || degradations(&bench) == "[]");
        let addresses =
            ["br-storage", "br-procurator"].map(|bridge| ip(&format!("-o -4 address show dev {bridge}")));
        assert!(addresses[0].contains("10.78.0.1") && addresses[1].contains("10.79.0.1"), "{addresses:?}");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_bridge_that_another_worker_has_is_not_noted_and_not_taken_away() {
    isolated(|bench| {
        // As the other worker does, in the network namespace of both.
        let name = SocketAddr::from_abstract_name("procurator-bridge-br-storage").expect("a name");
        let other = UnixListener::bind_addr(&name).expect("it is free");
        ip("link add br-storage type bridge");
        ip("link set br-storage alias procurator:bridge");
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &storage("10.76.0.0/24"));
        bench.assign(&[]);
        let (code, log) = bench.outcome(bench.command());
        assert!(code == Some(1) && log.contains("bridge br-storage"), "{log}");
        let note = bench.path("state/networks/storage/network.json");
        assert!(!note.exists(), "a later worker would take that bridge away");

        drop(other);
        bench.configure(&before);
        let mut daemon = bench.start();
        assert!(links().contains(&"br-storage".to_owned()), "it is the other's: {:?}", links());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert!(links().contains(&"br-storage".to_owned()), "{:?}", links());
    });
}

#[test]
fn a_vm_is_not_stopped_for_a_network_that_waits_for_its_uplink() {
    isolated(|bench| {
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &format!("{}uplink = 'late0'\n", storage("10.76.0.0/24")));
        bench.assign(&[vm(&bench, "a", "default")]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let started = bench.vms()[0]["started_at"].clone();
        let artifact = bench.artifact(
            "moved",
            &TinyGuest::power_button(),
            &json!({ "net": [{}], "procurator": { "net": [{ "id": "net0", "network": "storage" }] } }),
            "x",
        );
        let moved = json!({ "id": "a", "hash": artifact.hash, "store_path": artifact.path });
        bench.assign(std::slice::from_ref(&moved));
        let absent =
            "the network \"storage\" is not set up: the uplink late0 of the bridge br-storage is not there";
        bench.until("it is refused", || said(&bench.client(&["inspect", "a"])).contains(absent));
        assert_eq!(bench.phases(), ["a running"]);
        assert_eq!(bench.vms()[0]["started_at"], started, "it was not stopped for it");
        ip("link add late0 type veth peer name far0");
        ip("link set far0 up");
        bench.until("it is moved", || {
            let vms = bench.vms();
            vms[0]["interfaces"][0]["network"] == "storage" && vms[0]["phase"] == "running"
        });
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn an_address_of_before_is_told_once_a_conflict_is_over_under_a_vm_that_runs() {
    isolated(|bench| {
        bench.leave_guests();
        let before = fs::read_to_string(bench.path("worker.toml")).expect("read");
        configure(&bench, &before, &storage("10.76.0.0/24"));
        bench.assign(&[vm(&bench, "a", "storage")]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.kill();
        wan("192.0.2.1/24");
        configure(&bench, &before, &storage("192.0.2.0/25"));
        daemon = bench.start();
        assert!(bench.vms()[0]["interfaces"][0]["mismatch"].is_null(), "nothing is applied");
        ip("address del 192.0.2.1/24 dev wan");
        bench.until("it is told", || !bench.vms()[0]["interfaces"][0]["mismatch"].is_null());
        assert!(said(&bench.client(&["ls"])).contains("10.76.0.2 (storage, former)"));
        let details = said(&bench.client(&["inspect", "a"]));
        assert!(details.contains("its network \"storage\" is 192.0.2.0/25 now"), "{details}");
        assert!(degradations(&bench).contains("is 192.0.2.0/25 now"), "{}", degradations(&bench));
        assert!(bench.client(&["restart", "a", "--force"]).status.success());
        bench.until("nothing is told", || degradations(&bench) == "[]");
        assert_eq!(bench.vms()[0]["interfaces"][0]["address"], "192.0.2.2");
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("it is gone", || bench.vms().is_empty());
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

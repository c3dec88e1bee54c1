//! The program killed while ports of the host pass from one VM to another. The guests ignore the power button, so that their
//! machines are still there for the next one.

use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

/// What each VM has of the host's ports, where all of them run.
fn ports(bench: &Bench) -> Vec<Value> {
    let vms = bench.vms();
    let is_up = vms.iter().all(|vm| vm["phase"] == "running");
    if is_up { vms.iter().map(|vm| vm["ports"].clone()).collect() } else { Vec::new() }
}

/// `a` and `b` have the ports `before` and are to have those `after`; the program is killed in the middle of that. Whether the
/// next one gets there.
fn passes_on(before: [&'static str; 2], after: [&'static str; 2]) {
    isolated(move |bench| {
        bench.configure("stop_guests = true\nstop_timeout_seconds = 3\n[network]\nsubnet = '10.78.0.0/24'\n");
        let vms = ["a", "b"].map(|id| bench.vm(id, &TinyGuest::idle()));
        let with = |ports: [&'static str; 2]| {
            let mut vms = vms.clone();
            for (vm, port) in vms.iter_mut().zip(ports) {
                vm["procurator"] = json!({ "ports": [format!("{port}:80")] });
            }
            vms
        };
        let shown = |ports: [&'static str; 2]| ports.map(|port| json!([format!("{port}:80/tcp")]));
        bench.assign(&with(before));
        let mut daemon = bench.start();
        bench.until("both run", || ports(&bench) == shown(before));
        bench.assign(&with(after));
        bench.until("both stop", || bench.phases() == ["a stopping", "b stopping"]);
        daemon.kill();

        let mut next = bench.start();
        bench.until("both have what they are to have", || ports(&bench) == shown(after));
        let failures: Vec<Value> = bench.vms().iter().map(|vm| vm["wanted"].clone()).collect();
        assert_eq!(failures, [Value::Null, Value::Null], "{}", bench.log());
        bench.assign_text(&json!({ "vms": [], "allow_removals": true }).to_string());
        bench.until("nothing is left", || bench.phases().is_empty());
        next.kill();
    });
}

/// What the record of `vm` says of `key`.
fn recorded(bench: &Bench, vm: &str, key: &str) -> Value {
    let text = std::fs::read_to_string(bench.path("state/vms").join(vm).join("record.json")).expect("read");
    serde_json::from_str::<Value>(&text).expect("JSON")[key].clone()
}

#[test]
fn a_program_that_is_told_to_end_waits_neither_for_ports_nor_for_guests_that_go_on() {
    isolated(|bench| {
        let configure = |timeout: u32| {
            bench.configure(&format!(
                "stop_timeout_seconds = {timeout}\n[network]\nsubnet = '10.78.0.0/24'\n"
            ));
        };
        configure(600);
        let vms = ["a", "b"].map(|id| bench.vm(id, &TinyGuest::idle()));
        let with = |[a, b]: [&'static str; 2]| {
            let mut vms = vms.clone();
            vms[0]["procurator"] = json!({ "ports": [format!("{a}:80")] });
            vms[1]["procurator"] = json!({ "ports": [format!("{b}:80")] });
            vms
        };
        bench.assign(&with(["9000", "9001"])[..1]);
        let mut daemon = bench.start();
        bench.until("a runs", || bench.phases() == ["a running"]);
        bench.assign(&with(["9002", "9000"]));
        bench.until("b waits for the port of a", || {
            bench.phases() == ["a stopping", "b creating"]
                && bench.log().contains("waiting for a port of the host")
        });
        daemon.signal(rustix::process::Signal::TERM);
        assert!(daemon.ended().success(), "{}", bench.log());
        assert!(bench.log().contains("the worker ends before the VM has stopped"), "{}", bench.log());
        assert_eq!(recorded(&bench, "b", "running_since"), Value::Null, "its start was given up");
        assert_ne!(recorded(&bench, "a", "stopping"), Value::Null);

        configure(1);
        let mut next = bench.start();
        let shown = [json!(["9002:80/tcp"]), json!(["9000:80/tcp"])];
        bench.until("both have what they are to have", || ports(&bench) == shown);
        next.kill();
    });
}

#[test]
fn ports_that_are_exchanged_when_it_is_killed_are_exchanged_by_the_next() {
    passes_on(["8080", "8081"], ["8081", "8080"]);
}

#[test]
fn a_port_that_is_passed_on_when_it_is_killed_is_passed_on_by_the_next() {
    passes_on(["9000", "9002"], ["9005", "9000"]);
}

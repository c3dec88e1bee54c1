//! VMs that are isolated strictly share a process with nobody, whatever the worker's settings are.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, Daemon, host_processes, isolated, links};
use crate::outliving::host_process_of;

/// Starts with `vms` to a process.
fn configure(bench: &Bench, vms: u32) {
    let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
    let setting = format!("vms_per_host_process = {vms}\nspare_host_processes = 0\n");
    fs::write(bench.path("worker.toml"), setting + &config).expect("written");
}

fn strict(mut vm: Value) -> Value {
    vm["procurator"] = json!({ "isolation": "strict" });
    vm
}

/// Runs three VMs, the second isolated. The first is there before the others, which could be started beside each other.
fn run(bench: &Bench) -> Daemon<'_> {
    let [a, b, c] = ["a", "b", "c"].map(|id| bench.vm(id, &TinyGuest::power_button()));
    bench.assign(std::slice::from_ref(&a));
    let daemon = bench.start();
    bench.until("the first runs", || bench.phases() == ["a running"]);
    bench.assign(&[a, strict(b), c]);
    bench.until("all run", || all_run(bench));
    daemon
}

fn all_run(bench: &Bench) -> bool {
    bench.phases() == ["a running", "b running", "c running"]
}

#[test]
fn one_of_many_in_a_process_has_its_own() {
    isolated(|bench| {
        configure(&bench, 16);
        let mut daemon = run(&bench);
        let process = |id| host_process_of(&bench, id);
        assert_eq!(process("a"), process("c"));
        assert_ne!(process("a"), process("b"));
        assert_eq!(host_processes(&bench).len(), 2);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn one_has_its_own_where_all_others_share_the_worker() {
    isolated(|bench| {
        configure(&bench, 0);
        let mut daemon = run(&bench);
        assert_eq!(host_processes(&bench), [host_process_of(&bench, "b")]);
        let told = bench.status()["degradations"].to_string();
        assert!(told.contains("in the worker's own process, in no jail and without filters"), "{told}");
        let verdict = bench.client(&["upgrade", "--check"]);
        let told = String::from_utf8_lossy(&verdict.stdout).into_owned();
        assert_eq!(told.matches("ends with it").count(), 2, "{told}");

        // A worker that is killed takes its own along; the other is found again.
        daemon.signal(Signal::KILL);
        daemon.ended();
        let before = host_process_of(&bench, "b");
        let mut daemon = bench.start();
        bench.until("all run again", || all_run(&bench));
        assert_eq!(host_process_of(&bench, "b"), before);
        // It ends with the worker as the others do.
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
        bench.until("no process is left", || host_processes(&bench).is_empty());
    });
}

#[test]
fn another_isolation_is_a_change_that_restarts_the_vm() {
    isolated(|bench| {
        configure(&bench, 16);
        let mut daemon = run(&bench);
        let [a, b, c] =
            ["a", "b", "c"].map(|id| bench.vms().into_iter().find(|vm| vm["id"] == id).expect(id));
        let before = host_process_of(&bench, "a");
        let plain =
            |vm: &Value| json!({ "id": vm["id"], "hash": vm["hash"], "store_path": vm["store_path"] });
        bench.assign(&[strict(plain(&a)), strict(plain(&b)), plain(&c)]);
        bench.until("a has a process of its own", || {
            all_run(&bench) && host_processes(&bench).len() == 3 && host_process_of(&bench, "a") != before
        });
        assert_eq!(host_process_of(&bench, "c"), before, "the other one stays");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

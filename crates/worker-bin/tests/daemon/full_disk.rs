//! A worker that comes to a full disk: it starts, takes its VMs over, says what is wrong, and loses no record.

use std::fs;
use std::path::Path;

use serde_json::Value;
use test_host::SmallFileSystem;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, Daemon, isolated};

/// What stays the same of VMs whose guests did not notice anything.
fn lives(bench: &Bench) -> Vec<[Value; 4]> {
    let life = |vm: &Value| ["phase", "started_at", "address", "restarts"].map(|key| vm[key].clone());
    bench.vms().iter().map(life).collect()
}

/// What the worker says of its disk.
fn told(bench: &Bench) -> String {
    bench.status()["degradations"].to_string()
}

fn next<'a>(bench: &'a Bench, daemon: &mut Daemon<'a>) {
    daemon.kill();
    *daemon = bench.start();
}

/// The records of the state directory `state`, each of which is whole.
fn records(state: &Path) -> Vec<Value> {
    let vms = ["a", "b"].map(|vm| state.join("vms").join(vm).join("record.json"));
    let files = [state.join("worker.json"), state.join("leases.json")].into_iter().chain(vms);
    files
        .map(|file| {
            let bytes = fs::read(&file).expect("it is there");
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        })
        .collect()
}

#[test]
fn a_worker_that_starts_on_a_full_disk_takes_its_vms_over_and_loses_no_record() {
    isolated(|bench| {
        let disk = SmallFileSystem::new(4 << 20);
        let state = bench.path("state");
        fs::create_dir(&state).expect("created");
        disk.mount_at(&state);
        bench.leave_guests();
        bench.assign(&["a", "b"].map(|id| bench.vm(id, &TinyGuest::power_button())));
        let mut daemon = bench.start();
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        let before = lives(&bench);
        assert!(!told(&bench).contains("full"), "{}", told(&bench));

        daemon.kill();
        disk.fill();
        daemon = bench.start();
        assert_eq!(lives(&bench), before, "{}", bench.log());
        assert!(told(&bench).contains("is full: records go to the space set aside"), "{}", told(&bench));
        let listed = String::from_utf8_lossy(&bench.client(&["ls"]).stdout).into_owned();
        assert!(listed.contains("is full"), "{listed}");

        // An order finds space for its record.
        assert!(bench.client(&["stop", "b"]).status.success(), "{}", bench.log());
        disk.fill();
        next(&bench, &mut daemon);
        assert_eq!(bench.phases(), ["a running", "b stopped"]);
        assert_eq!(lives(&bench)[0], before[0]);
        records(&state);

        // Without what was set aside, too, it starts. What it cannot record it does not do.
        daemon.kill();
        fs::write(state.join("reserve"), "").expect("emptied");
        disk.fill();
        let kept = records(&state);
        daemon = bench.start();
        assert_eq!(bench.phases(), ["a running", "b stopped"], "{}", bench.log());
        assert_eq!(lives(&bench)[0], before[0]);
        assert!(told(&bench).contains("nothing can be recorded"), "{}", told(&bench));
        let refused = bench.client(&["start", "b"]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains("No space left"), "{why}");
        assert_eq!(records(&state), kept);

        disk.make_room();
        bench.until("there is space", || !told(&bench).contains("full"));
        assert!(bench.client(&["start", "b"]).status.success(), "{}", bench.log());
        next(&bench, &mut daemon);
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        assert_eq!(lives(&bench)[0], before[0]);
        bench.assign_text(r#"{"vms": [], "allow_removals": true}"#);
        bench.until("they are gone", || bench.vms().is_empty());
    });
}

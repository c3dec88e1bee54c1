//! Two masters that live at once behind one address: connections go to the one or to the other. What the followed one said
//! stays in force, and what the other one says waits for somebody's word, each time anew.

use std::net::TcpStream;

use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::hostile_master::{FakeMaster, frame};

/// All that `master` has to say: its greeting and its newest desired state.
fn says(master: &str, generation: u64, vms: &[&Value]) -> Vec<u8> {
    let epoch = format!("epoch-of-{master}");
    let welcome = json!({
        "type": "welcome", "version": 1, "heartbeat_ms": 60_000, "master": master, "epoch": epoch,
    });
    let assignment = json!({ "type": "assignment", "epoch": epoch, "generation": generation, "vms": vms });
    [welcome, assignment].iter().flat_map(|message| frame(&message.to_string())).collect()
}

/// The worker's next connection goes to `master`, which says that; the one before is closed.
fn balance(before: &mut Option<TcpStream>, address: &FakeMaster, bench: &Bench, said: &[u8]) {
    drop(before.take());
    *before = Some(address.say(bench, said));
}

fn held_from(bench: &Bench, master: &str) -> bool {
    let status = bench.status();
    status["master"]["lineage"]["master"] == master
        && status["sources"]["master"]["held"]["waits_for"] == "lineage"
}

#[test]
fn two_masters_at_once_move_nothing_to_and_fro() {
    isolated(|bench| {
        let address = FakeMaster::of(&bench);
        let guest = TinyGuest::power_button();
        let (a, b) = (bench.vm("a", &guest), bench.vm("b", &guest));
        let paused = |vm: &Value| {
            let mut vm = vm.clone();
            vm["desired"] = "paused".into();
            vm
        };
        bench.assign(&[]);
        let _daemon = bench.start();
        let mut connection = None;
        balance(&mut connection, &address, &bench, &says("m1", 4, &[&a]));
        bench.until("the first one is followed", || bench.phases() == ["a running"]);
        let started_at = bench.vms()[0]["started_at"].clone();

        // The second one counts further, and names another VM.
        balance(&mut connection, &address, &bench, &says("m2", 9, &[&b]));
        bench.until("the second one is held", || held_from(&bench, "m2"));
        assert_eq!(bench.status()["sources"]["master"]["held"]["generation"], 9, "{}", bench.status());
        assert_eq!(bench.phases(), ["a running"]);

        balance(&mut connection, &address, &bench, &says("m1", 5, &[&paused(&a)]));
        bench.until("the first one goes on where it was", || bench.phases() == ["a paused"]);
        assert!(bench.status()["sources"]["master"]["held"].is_null(), "{}", bench.status());

        balance(&mut connection, &address, &bench, &says("m2", 10, &[&b]));
        bench.until("the second one is held again", || held_from(&bench, "m2"));
        assert_eq!(bench.phases(), ["a paused"]);
        assert_eq!(bench.vms()[0]["started_at"], started_at, "it is the same run throughout");

        // Somebody's word for the second one is no word for the first one.
        assert!(bench.client(&["accept-master"]).status.success());
        bench.until("the second one is followed", || bench.phases() == ["b running"]);
        balance(&mut connection, &address, &bench, &says("m1", 6, &[&a]));
        bench.until("the first one is held now", || held_from(&bench, "m1"));
        assert_eq!(bench.phases(), ["b running"]);
    });
}

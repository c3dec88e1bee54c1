//! What an operator does at three in the morning: VMs that a file assigns are stopped, started, paused and looked at.

use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

pub(crate) fn said(bench: &Bench, arguments: &[&str]) -> String {
    let done = bench.client(arguments);
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

pub(crate) fn refused(bench: &Bench, arguments: &[&str]) -> String {
    let done = bench.client(arguments);
    assert_eq!(done.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(done.stderr).expect("text")
}

fn two_vms(bench: &Bench) -> [Value; 2] {
    let vms = ["db-1", "web-1"].map(|id| bench.vm(id, &TinyGuest::power_button()));
    bench.assign(&vms);
    vms
}

#[test]
fn a_vm_with_ephemeral_disks_is_restarted_not_reset_and_is_told_so() {
    isolated(|bench| {
        let scratch = json!([{ "id": "scratch", "size": 1 << 20, "persistence": "ephemeral" }]);
        let more = json!({ "procurator": { "disks": scratch } });
        let image = bench.artifact("image", &TinyGuest::power_button(), &more, "x");
        bench.assign(&[json!({ "id": "a", "hash": image.hash, "store_path": image.path })]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let told = refused(&bench, &["reset", "a"]);
        for words in
            ["its ephemeral disks begin anew with each boot (scratch)", "`procurator-worker restart a`"]
        {
            assert!(told.contains(words), "{words} is not in {told}");
        }
        said(&bench, &["restart", "a"]);
        daemon.kill();
    });
}

#[test]
fn what_an_operator_orders_holds_until_the_file_says_something_new() {
    isolated(|bench| {
        let [db, mut web] = two_vms(&bench);
        let mut daemon = bench.start();
        bench.until("both run", || bench.phases() == ["db-1 running", "web-1 running"]);

        let told = said(&bench, &["stop", "w"]);
        assert!(told.starts_with("web-1: stopped (by its power button) in "), "{told}");
        assert_eq!(bench.phases(), ["db-1 running", "web-1 stopped"]);
        assert!(said(&bench, &["ls"]).contains("stopped by an operator (uid 0) since"));

        // Neither a worker that is started again nor a file that says the same brings it back.
        daemon.signal(Signal::TERM);
        daemon.ended();
        let _daemon = bench.start();
        bench.assign(&[db.clone(), web.clone()]);
        bench.until("the other runs", || bench.phases() == ["db-1 running", "web-1 stopped"]);
        assert!(said(&bench, &["start", "web-1"]).starts_with("web-1: started in "));
        assert_eq!(bench.phases(), ["db-1 running", "web-1 running"]);
        assert!(!said(&bench, &["inspect", "web"]).contains("operator"));

        let is_paused = || {
            let dump: Value =
                serde_json::from_str(&said(&bench, &["dump", "web-1", "--json"])).expect("JSON");
            dump["paused"].clone()
        };
        assert_eq!(is_paused(), false);
        said(&bench, &["pause", "web-1"]);
        assert_eq!(is_paused(), true);
        assert_eq!(bench.phases(), ["db-1 running", "web-1 paused"]);
        web["overrides"] = serde_json::json!({ "cmdline_append": "new" });
        bench.assign(&[db, web]);
        bench.until("what the file says anew holds", || bench.phases() == ["db-1 running", "web-1 running"]);
    });
}

#[test]
fn several_vms_are_told_at_once_and_each_is_heard_of() {
    isolated(|bench| {
        two_vms(&bench);
        let _daemon = bench.start();
        bench.until("both run", || bench.phases() == ["db-1 running", "web-1 running"]);
        let mut lines: Vec<String> =
            said(&bench, &["restart", "--all", "--force"]).lines().map(str::to_owned).collect();
        lines.sort();
        assert!(
            lines[0].starts_with("db-1: restarted") && lines[1].starts_with("web-1: restarted"),
            "{lines:?}"
        );
        let dump = said(&bench, &["dump", "web"]);
        assert!(dump.starts_with("vCPU 0: ") && dump.contains("rip "), "{dump}");
        let reset: Value = serde_json::from_str(&said(&bench, &["reset", "db-1", "--json"])).expect("JSON");
        assert_eq!(reset[0]["what"], "reset");
        bench.until("it is reset", || bench.vms()[0]["resets"] == 1);
        said(&bench, &["stop", "--force", "db", "web"]);
        assert_eq!(bench.phases(), ["db-1 stopped", "web-1 stopped"]);
        let told = refused(&bench, &["pause", "--all"]);
        assert!(told.contains("2 of 2 VMs did not") && told.contains("VM db-1 is stopped"), "{told}");
        assert!(refused(&bench, &["stop", "wbe-1"]).contains("the nearest is web-1"));
        assert_eq!(bench.client(&["stop"]).status.code(), Some(2));

        let events = said(&bench, &["events", "--json", "db-1"]);
        let events: Vec<Value> =
            events.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
        let ordered: Vec<&str> = events
            .iter()
            .filter(|event| event["event"] == "ordered")
            .filter_map(|event| event["verb"].as_str())
            .collect();
        assert_eq!(ordered, ["restart", "reset", "stop", "pause"]);
        assert!(said(&bench, &["events"]).contains("running → stopping"));
    });
}

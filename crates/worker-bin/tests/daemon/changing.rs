//! VMs that were created by hand are changed by hand, and come back by hand.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, host_processes, isolated};
use crate::operating::{refused, said};

fn one(bench: &Bench, id: &str) -> Value {
    serde_json::from_str(&said(bench, &["inspect", id, "--json"])).expect("JSON")
}

#[test]
fn what_was_created_is_set_after_its_plan_was_shown() {
    isolated(|bench| {
        bench.assign(&[bench.vm("listed", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        let image = bench.vm("web-1", &TinyGuest::power_button());
        let image = image["store_path"].as_str().expect("a path").to_owned();
        said(&bench, &["create", "web-1", &image, "--vcpus", "1", "--restart", "never"]);

        let shown = said(&bench, &["set", "web", "--memory", "64M", "--dry-run"]);
        assert!(shown.contains("restart web-1: ") && shown.contains("web-1 restarts for it"), "{shown}");
        assert_eq!(one(&bench, "web-1")["overrides"]["memory_bytes"], Value::Null, "nothing was done");

        let done = said(&bench, &["set", "web-1", "--memory", "64M", "--vcpus", "2", "--cmdline", "more"]);
        assert!(done.contains("web-1 restarts for it\nweb-1 is running, address 10.78.0."), "{done}");
        let vm = one(&bench, "web-1");
        assert_eq!(
            (&vm["machine"]["vcpus"], &vm["machine"]["memory_bytes"]),
            (&2.into(), &(64 << 20).into())
        );
        assert!(vm["machine"]["cmdline"].as_str().expect("text").ends_with("more"), "{vm}");

        let live = said(&bench, &["set", "web-1", "--restart", "on-failure"]);
        assert!(live.contains("web-1 does not restart for it"), "{live}");
        let again = said(&bench, &["set", "web-1", "--restart", "on-failure"]);
        assert!(again.starts_with("nothing to change"), "{again}");
        said(&bench, &["set", "web-1", "--memory", "default", "--cmdline-append", ""]);
        assert_eq!(one(&bench, "web-1")["overrides"], json!({ "vcpus": 2 }));

        // What an operator ordered goes on.
        said(&bench, &["stop", "web-1"]);
        let off = said(&bench, &["set", "web-1", "--vcpus", "1"]);
        assert!(off.contains("web-1 is off: this holds from its next start on\nweb-1 is stopped"), "{off}");
        said(&bench, &["start", "web-1"]);
        assert_eq!(one(&bench, "web-1")["machine"]["vcpus"], 1);

        let owner = refused(&bench, &["set", "listed", "--vcpus", "2"]);
        assert!(owner.contains("VM listed is assigned by the assignments file: change it there"), "{owner}");
        assert!(owner.contains("vms.json: `overrides`"), "{owner}");
        assert!(refused(&bench, &["set", "web-1", "--store-path", "/etc"]).contains("/etc"));
        assert_eq!(bench.client(&["set", "web-1"]).status.code(), Some(2), "nothing is to be set");
        daemon.kill();
    });
}

#[test]
fn what_a_vm_was_set_to_holds_at_its_next_crash() {
    isolated(|bench| {
        bench.assign(&[]);
        let mut daemon = bench.start();
        let image = bench.vm("web-1", &TinyGuest::power_button());
        let image = image["store_path"].as_str().expect("a path").to_owned();
        said(&bench, &["create", "web-1", &image]);
        said(&bench, &["set", "web-1", "--restart", "never"]);
        for process in host_processes(&bench) {
            kill_process(Pid::from_raw(process).expect("an id"), Signal::KILL).expect("killed");
        }
        bench.until("it has failed", || bench.phases() == ["web-1 failed"]);
        let vm = one(&bench, "web-1");
        assert_eq!((&vm["restarts"], vm["ends"].as_array().map(Vec::len)), (&0.into(), Some(1)), "{vm}");
        daemon.kill();
    });
}

#[test]
fn a_plan_for_a_source_that_has_not_spoken_yet_goes_by_its_rank() {
    isolated(|bench| {
        bench.assign(&[]);
        let mut daemon = bench.start();
        let mut listed = bench.vm("web-1", &TinyGuest::power_button());
        let image = listed["store_path"].as_str().expect("a path").to_owned();
        said(&bench, &["create", "web-1", &image]);
        listed["overrides"] = json!({ "vcpus": 2 });
        let file = bench.path("of-a-master.json");
        fs::write(&file, json!({ "vms": [listed] }).to_string()).expect("written");
        let plan = said(&bench, &["plan", "--assignments", file.to_str().expect("text"), "--as", "master"]);
        assert!(plan.contains("restart web-1: ") && !plan.contains("is not followed"), "{plan}");
        daemon.kill();
    });
}

#[test]
fn networks_ports_destinations_and_disks_are_said_by_flags() {
    isolated(|bench| {
        bench.configure(
            "stop_guests = true\n[network]\nsubnet = '10.78.0.0/24'\n[networks.storage]\nbridge = 'br-storage'\n\
             subnet = '10.79.0.0/24'\n",
        );
        bench.assign(&[]);
        let mut daemon = bench.start();
        let image = bench.artifact("a", &TinyGuest::power_button(), &json!({ "net": [{}] }), "x");
        let image = image.path.to_str().expect("text").to_owned();
        let flags = [
            "create",
            "a",
            &image,
            "--network",
            "storage",
            "--port",
            "8080:80",
            "--egress",
            "none",
            "--disk",
            "name=data,size=1M",
        ];
        let created = said(&bench, &flags);
        assert!(created.contains("a is running, address 10.79.0."), "{created}");
        let vm = one(&bench, "a");
        assert_eq!((&vm["ports"], &vm["egress"]), (&json!(["8080:80/tcp"]), &json!([])));
        let disks = vm["machine"]["disks"].as_array().expect("a list");
        assert_eq!(disks.iter().map(|disk| &disk["id"]).collect::<Vec<_>>(), ["disk0", "data"]);
        said(&bench, &["set", "a", "--port", "default", "--egress", "10.0.0.0/8", "--disk", "default"]);
        let vm = one(&bench, "a");
        assert_eq!((&vm["ports"], &vm["egress"]), (&json!([]), &json!(["10.0.0.0/8"])));
        assert_eq!(vm["machine"]["disks"].as_array().map(Vec::len), Some(1));
        let refused = bench.client(&["set", "a", "--network", "none-such"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("none-such"), "{told}");
        assert!(refused.stdout.is_empty(), "it is said once");
        daemon.kill();
    });
}

#[test]
fn a_removed_vm_is_back_when_undelete_returns() {
    isolated(|bench| {
        bench.assign(&[]);
        let mut daemon = bench.start();
        let image = bench.artifact("a", &TinyGuest::power_button(), &json!({}), "x");
        let image = image.path.to_str().expect("text").to_owned();
        said(&bench, &["create", "a", &image]);
        said(&bench, &["stop", "a"]);
        said(&bench, &["start", "a"]);
        said(&bench, &["rm", "a", "--timeout", "60"]);
        assert!(said(&bench, &["events", "a"]).contains("running → stopping"), "what happened is still told");
        for verb in ["inspect", "logs", "start"] {
            let told = String::from_utf8_lossy(&bench.client(&[verb, "a"]).stderr).into_owned();
            assert!(
                told.contains("VM a was removed; `procurator-worker undelete a` brings it back"),
                "{told}"
            );
        }
        let told = String::from_utf8_lossy(&bench.client(&["undelete", "new"]).stderr).into_owned();
        assert!(told.contains("no removed VM new is kept"), "{told}");
        let back = said(&bench, &["undelete", "a"]);
        assert!(back.starts_with("create a\na is running, address 10.78.0."), "{back}");
        assert_eq!(bench.phases(), ["a running"]);
        // It has ended before, which says nothing of how it is now.
        said(&bench, &["rm", "a"]);
        let created = said(&bench, &["create", "a", &image]);
        assert!(created.contains("a is running"), "{created}");
        said(&bench, &["rm", "a"]);
        assert_eq!(said(&bench, &["undelete", "a", "--no-wait"]), "create a\n");
        bench.until("it runs", || bench.phases() == ["a running"]);
        // It has no disk: nothing of it is kept but what it was.
        let plain =
            bench.vm("plain", &TinyGuest::power_button())["store_path"].as_str().expect("a path").to_owned();
        said(&bench, &["create", "plain", &plain, "--vcpus", "2"]);
        said(&bench, &["rm", "plain"]);
        assert!(!said(&bench, &["ls", "--removed"]).contains("plain"));
        let told = String::from_utf8_lossy(&bench.client(&["logs", "plain"]).stderr).into_owned();
        assert!(
            told.contains(
                "VM plain was removed, and nothing is kept of it; `procurator-worker events plain`"
            )
        );
        assert!(said(&bench, &["undelete", "plain"]).contains("plain is running"));
        assert_eq!(one(&bench, "plain")["machine"]["vcpus"], 2);
        said(&bench, &["rm", "plain"]);
        // It is still being stopped.
        said(&bench, &["rm", "a", "--no-wait"]);
        let back = said(&bench, &["undelete", "a"]);
        assert!(back.contains("a is running"), "{back}");
        daemon.kill();
    });
}

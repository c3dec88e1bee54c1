//! Orders that come while another one is being carried out, and what is told of them.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::operating::{refused, said};

fn image(bench: &Bench, guest: &TinyGuest) -> String {
    bench.vm("image", guest)["store_path"].as_str().expect("a path").to_owned()
}

fn one(bench: &Bench, id: &str) -> Value {
    serde_json::from_str(&said(bench, &["inspect", id, "--json"])).expect("JSON")
}

#[test]
fn a_start_is_done_when_the_stop_before_it_is_over() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        for round in 0..5 {
            said(&bench, &["stop", "a", "--no-wait"]);
            said(&bench, &["start", "a"]);
            assert_eq!(bench.phases(), ["a running"], "round {round}");
            said(&bench, &["pause", "a", "--no-wait"]);
            said(&bench, &["resume", "a"]);
            assert_eq!(bench.phases(), ["a running"], "round {round}");
            said(&bench, &["start", "a", "--no-wait"]);
            said(&bench, &["stop", "a", "--force"]);
            assert_eq!(bench.phases(), ["a stopped"], "round {round}");
            said(&bench, &["start", "a"]);
        }
        daemon.kill();
    });
}

#[test]
fn who_waits_for_an_order_that_was_overtaken_is_told_at_once() {
    isolated(|bench| {
        // A guest that does not obey: stopping it takes the 40 seconds that it is given.
        bench.assign(&[bench.vm("a", &TinyGuest::idle())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let mut stop = std::process::Command::new(&bench.program);
        stop.args(["stop", "a", "--runtime-dir"]).arg(bench.path("run")).env_clear();
        let stopping = stop.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        bench.until("it is being stopped", || bench.phases() == ["a stopping"]);
        said(&bench, &["start", "a", "--no-wait"]);
        let told = stopping.wait_with_output().expect("it ends");
        let words = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(1), "{words}");
        assert!(
            words.contains("VM a was to be stopped; another order came meanwhile, and it is to be running"),
            "{words}"
        );
        daemon.kill();
    });
}

#[test]
fn a_kill_by_force_is_told_apart_from_a_guest_that_did_not_obey() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        said(&bench, &["stop", "a", "--force"]);
        let vm = one(&bench, "a");
        assert_eq!(vm["ends"][0]["method"], "forced", "{vm}");
        assert!(said(&bench, &["inspect", "a"]).contains("killed by force (stopped by a command)"));
        daemon.kill();
    });
}

#[test]
fn a_vm_that_is_off_keeps_its_address_and_counts_under_the_next_worker() {
    isolated(|bench| {
        bench.assign(&[]);
        let mut daemon = bench.start();
        let image = image(&bench, &TinyGuest::echo());
        said(&bench, &["create", "a", &image]);
        said(&bench, &["reset", "a"]);
        bench.until("it is back", || bench.phases() == ["a running"] && one(&bench, "a")["resets"] == 1);
        said(&bench, &["stop", "a", "--force"]);
        let before = one(&bench, "a");
        let known = |vm: &Value| {
            (vm["address"].clone(), vm["mac"].clone(), vm["restarts"].clone(), vm["resets"].clone())
        };
        daemon.signal(Signal::TERM);
        daemon.ended();
        let mut daemon = bench.start();
        let after = one(&bench, "a");
        assert_eq!(after["phase"], "stopped");
        assert_eq!(known(&after), known(&before));
        assert!(after["address"].is_string() && after["uuid"] == before["uuid"], "{after}");
        daemon.kill();
    });
}

#[test]
fn a_restart_of_a_paused_vm_takes_away_no_tap_that_somebody_would_miss() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        said(&bench, &["pause", "a"]);
        for force in [&["restart", "a"][..], &["restart", "a", "--force"]] {
            said(&bench, force);
            assert_eq!(bench.phases(), ["a paused"]);
        }
        assert!(!bench.log().contains("was deleted"), "{}", bench.log());
        daemon.kill();
    });
}

#[test]
fn what_the_worker_and_the_process_of_a_vm_say_of_it_is_kept_with_it() {
    isolated(|bench| {
        bench.assign(&["a", "b"].map(|id| bench.vm(id, &TinyGuest::power_button())));
        let mut daemon = bench.start();
        bench.until("they run", || bench.phases() == ["a running", "b running"]);
        let logged =
            |source: &str, more: &[&str]| said(&bench, &[&["logs", "a", "--source", source], more].concat());
        bench.until("the worker's lines are kept", || logged("worker", &[]).contains("now running"));
        assert!(!logged("worker", &[]).contains("vm_id=b"), "{}", logged("worker", &[]));
        assert_eq!(logged("worker", &["--tail", "1"]).lines().count(), 1);
        assert_eq!(logged("worker", &["--since", "1h"]), logged("worker", &[]));
        said(&bench, &["stop", "a"]);
        bench.until("the process' lines are kept", || logged("vmm", &[]).contains("vm_id=a"));
        assert!(
            refused(&bench, &["logs", "a", "--source", "vmm", "--boots"])
                .contains("boots are of the console")
        );
        daemon.kill();
    });
}

/// Each process of a VM has a user of its own, who does not write to a file of the one before.
#[test]
fn what_the_next_process_of_a_vm_says_stands_beside_what_the_one_before_said() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        for _ in 0..2 {
            bench.until("it runs", || bench.phases() == ["a running"]);
            said(&bench, &["stop", "a"]);
            bench.until("it is off", || bench.phases() == ["a stopped"]);
            said(&bench, &["start", "a"]);
        }
        bench.until("both files are there", || {
            ["vmm.log", "vmm.log.1"].iter().all(|name| bench.path("state/vms/a/console").join(name).exists())
        });
        assert!(!bench.log().contains("SIGSYS"), "{}", bench.log());
        daemon.kill();
    });
}

#[test]
fn a_configuration_that_is_refused_is_told_by_status_too() {
    isolated(|bench| {
        bench.assign(&[]);
        let mut daemon = bench.start();
        bench.configure("[network]\nsubnet = '10.78.0.0/24'\nnatt = true\n");
        daemon.signal(Signal::HUP);
        bench.until("it is told", || bench.status()["refused_configuration"].is_string());
        assert!(said(&bench, &["ls"]).contains("the configuration was not taken when it was read last"));
        bench.configure("log_format = 'json'\nstop_guests = true\n[network]\nsubnet = '10.78.0.0/24'\n");
        daemon.signal(Signal::HUP);
        bench.until("it was taken", || bench.status()["refused_configuration"].is_null());
        let waiting = &bench.status()["settings_for_restart"];
        assert!(waiting.as_array().expect("a list").contains(&"log_format".into()), "{waiting}");
        assert!(said(&bench, &["status"]).contains("hold after a restart of the worker: log_format"));
        assert!(refused(&bench, &["inspect", "x"]).contains("there is no VM x; this host has no VMs"));
        daemon.kill();
    });
}

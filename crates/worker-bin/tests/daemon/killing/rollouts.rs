//! The program killed while a definition is on trial: at each step, and in the middle of it.

use std::collections::BTreeMap;

use fail_points::{FailPoint, Trigger};
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use super::fail_points::{Life, Part, Stage, artifact, kill_in, points};
use super::scene::{Placement, Removal, configure, entry, mark, marked};
use crate::bench::{Bench, Daemon, isolated};

/// `entry`, on trial until its guest says `marker`, for `seconds` at most.
fn on_trial(mut entry: Value, marker: &str, seconds: u64) -> Value {
    let probe = json!({ "id": "up", "role": "readiness", "kind": "console", "marker": marker });
    entry["procurator"]["health"] = json!({ "probes": [probe] });
    entry["procurator"]["rollout"] = json!({ "ready_deadline_s": seconds, "on_failure": "roll_back" });
    entry
}

/// A life with two trials: the first is accepted, the second is not.
fn life(bench: &Bench) -> Life {
    let (one, two) = (artifact(bench, "one", "1", &[]), artifact(bench, "two", "2", &[]));
    let other = artifact(bench, "other", "0", &[]);
    let stage = |a: Value, refused| Stage {
        wanted: BTreeMap::from([
            ("a".to_owned(), (a, "running")),
            ("b".to_owned(), (entry("b", &other, 1), "running")),
        ]),
        refused,
    };
    let stages = vec![
        stage(entry("a", &one, 1), None),
        stage(on_trial(entry("a", &two, 2), "ready", 600), None),
        stage(on_trial(entry("a", &one, 3), "never", 1), Some("a")),
        Stage { wanted: BTreeMap::new(), refused: None },
    ];
    Life { stages }
}

/// Steps of both trials: of the one that is accepted and of the one that is not.
fn steps() -> impl Iterator<Item = Trigger> {
    let second = [FailPoint::RolloutRecorded, FailPoint::VolumeCopied];
    let second = second.into_iter().map(|point| Trigger::first(point).at(2));
    points(Part::Rollout).map(Trigger::first).chain(second)
}

#[test]
fn killed_at_each_step_of_a_rollout_in_the_worker() {
    kill_in(life, Placement::Worker, steps());
}

#[test]
fn killed_at_each_step_of_a_rollout_in_host_processes() {
    kill_in(life, Placement::HostProcesses, steps());
}

fn vm(bench: &Bench) -> Value {
    bench.vms().into_iter().next().unwrap_or_default()
}

/// A VM in a process of its own, with a mark on its disk, in the middle of a trial that its guest does not pass within
/// `seconds`. The program has been killed and is at work again.
fn replaced_in_the_middle(bench: &Bench, seconds: u64, test: impl FnOnce(&mut Daemon<'_>, Value)) {
    configure(bench, Placement::HostProcesses, Removal::AtOnce);
    let image = bench.artifact("image", &TinyGuest::power_button(), &json!({}), "1");
    bench.assign(&[entry("a", &image, 1)]);
    let mut daemon = bench.start();
    bench.until("it runs", || bench.phases() == ["a running"]);
    mark(bench, "a", "data", 1);
    let first = vm(bench)["started_at"].clone();
    bench.assign(&[on_trial(entry("a", &image, 2), "never", seconds)]);
    bench.until("it is on trial", || vm(bench)["phase"] == "running" && vm(bench)["started_at"] != first);
    mark(bench, "a", "data", 2);
    let on_trial = vm(bench)["started_at"].clone();
    daemon.kill();
    let mut daemon = bench.start();
    test(&mut daemon, on_trial);
    daemon.kill();
}

#[test]
fn a_worker_that_is_replaced_goes_on_with_a_trial_and_takes_it_back() {
    isolated(|bench| {
        replaced_in_the_middle(&bench, 8, |_, on_trial| {
            assert_eq!(vm(&bench)["started_at"], on_trial, "{}", bench.log());
            bench.until("it is taken back", || {
                let vm = vm(&bench);
                vm["phase"] == "running" && !vm["wanted"]["refusal"].is_null()
            });
            let message = vm(&bench)["wanted"]["refusal"]["message"].clone();
            assert!(
                message.as_str().is_some_and(|text| text.starts_with("not ready after 8 s")),
                "{message}"
            );
            assert_eq!(marked(&bench, "a", "data"), 1, "nothing of the trial is left");
            stop(&bench);
        });
    });
}

#[test]
fn a_machine_on_trial_that_ends_while_no_worker_is_there_is_taken_back_by_the_next() {
    isolated(|bench| {
        replaced_in_the_middle(&bench, 600, |daemon, on_trial| {
            assert_eq!(vm(&bench)["started_at"], on_trial, "{}", bench.log());
            let process = crate::outliving::host_process_of(&bench, "a");
            daemon.kill();
            let process = rustix::process::Pid::from_raw(process).expect("an id");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it is there");
            let mut next = bench.start();
            // The process is gone with all that it knew: the trial is begun again, from the disk of before.
            bench.until("it is on trial again", || {
                let vm = vm(&bench);
                vm["phase"] == "running" && vm["wanted"].is_null()
            });
            assert_eq!(marked(&bench, "a", "data"), 1);
            stop(&bench);
            next.kill();
        });
    });
}

/// Removes the VM, so that no process of it stays.
fn stop(bench: &Bench) {
    bench.assign_text(&json!({ "vms": [], "allow_removals": true }).to_string());
    bench.until("nothing is left", || {
        bench.phases().is_empty() && crate::bench::host_processes(bench).is_empty()
    });
}

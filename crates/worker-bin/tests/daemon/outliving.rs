//! Guests go on when the worker ends, and the next worker takes them over.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, Daemon, entries, host_processes, isolated, links};

/// What stays the same of VMs whose guests did not notice anything.
fn lives(bench: &Bench) -> Vec<(Value, Value, Value)> {
    let life = |vm: &Value| (vm["started_at"].clone(), vm["address"].clone(), vm["restarts"].clone());
    bench.vms().iter().map(life).collect()
}

/// The host process that has a thread for the VM `id`.
pub(crate) fn host_process_of(bench: &Bench, id: &str) -> i32 {
    let has_thread = |process: &i32| {
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("listed").flatten();
        threads.into_iter().any(|thread| {
            fs::read_to_string(thread.path().join("comm"))
                .is_ok_and(|name| name.trim_end() == format!("vm:{id}"))
        })
    };
    host_processes(bench).into_iter().find(has_thread).expect("a process that holds it")
}

fn a_and_b(bench: &Bench) -> [Value; 2] {
    ["a", "b"].map(|id| bench.vm(id, &TinyGuest::power_button()))
}

fn two_vms(bench: &Bench) {
    bench.assign(&a_and_b(bench));
}

fn both_run(bench: &Bench) -> bool {
    bench.phases() == ["a running", "b running"]
}

#[test]
fn guests_go_on_when_the_worker_is_killed() {
    isolated(|bench| {
        two_vms(&bench);
        let mut daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        bench.until("a has spoken", || {
            String::from_utf8_lossy(&bench.client(&["logs", "a"]).stdout).contains("ready")
        });
        let (before, wires) = (lives(&bench), links());

        daemon.signal(Signal::KILL);
        daemon.ended();
        assert_eq!(links(), wires, "their TAPs stay");
        assert_eq!(bench.client(&["ls"]).status.code(), Some(69));

        let mut daemon = bench.start();
        assert_eq!((both_run(&bench), lives(&bench)), (true, before), "{}", bench.log());
        let console = String::from_utf8_lossy(&bench.client(&["logs", "a"]).stdout).into_owned();
        assert!(console.contains("ready"), "{console}");
        assert_eq!(
            entries(&bench.path("state")),
            [
                "host-settings.json",
                "leases.json",
                "network.json",
                "reserve",
                "verified.json",
                "vms",
                "volumes",
                "worker.json",
                "worker.lock"
            ]
        );
        // What was taken over obeys its power button.
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
        bench.until("no process is left", || host_processes(&bench).is_empty());
        assert_eq!(entries(&bench.path("run/hosts")), [""; 0]);
    });
}

#[test]
fn guests_go_on_when_the_worker_is_restarted_and_follow_what_changed_meanwhile() {
    isolated(|bench| {
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        bench.assign(&[a.clone(), b]);
        bench.leave_guests();
        let mut daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        let (before, wires) = (lives(&bench), links());
        for _ in 0..2 {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
            assert_eq!(links(), wires);
            daemon = bench.start();
            assert_eq!((both_run(&bench), lives(&bench)), (true, before.clone()), "{}", bench.log());
        }
        daemon.signal(Signal::TERM);
        daemon.ended();

        bench.assign(&[a]);
        bench.stop_guests();
        let mut daemon = bench.start();
        bench.until("one is gone", || bench.phases() == ["a running"]);
        assert_eq!(lives(&bench)[0], before[0], "the other one is the same");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
        bench.until("no process is left", || host_processes(&bench).is_empty());
    });
}

#[test]
fn a_host_process_that_is_killed_takes_its_own_vm_along_and_no_other() {
    isolated(|bench| {
        two_vms(&bench);
        let mut daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        let before = lives(&bench);
        let process = Pid::from_raw(host_process_of(&bench, "a")).expect("an id");
        kill_process(process, Signal::KILL).expect("it is there");
        bench.until("it is started again", || both_run(&bench) && lives(&bench)[0].2 == 1);
        assert_eq!(lives(&bench)[1], before[1], "the other one did not notice");
        let told = String::from_utf8_lossy(&bench.client(&["inspect", "a"]).stdout).into_owned();
        assert!(told.contains("SIGKILL"), "{told}");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn a_vm_whose_process_died_with_the_worker_is_started_by_the_next_one() {
    isolated(|bench| {
        two_vms(&bench);
        let mut daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        let before = lives(&bench);
        let process = Pid::from_raw(host_process_of(&bench, "b")).expect("an id");
        daemon.signal(Signal::KILL);
        daemon.ended();
        kill_process(process, Signal::KILL).expect("it is there");
        let mut daemon = bench.start();
        bench.until("both run again", || both_run(&bench));
        let after = lives(&bench);
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1].0, before[1].0, "a run of its own");
        assert_eq!(after[1].1, before[1].1, "with the same address");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
    });
}

/// Two VMs under a worker that was killed, and the process of the one called `a`, which is stopped: it says nothing while the
/// next worker, which runs now, asks.
fn beside_a_silent_process<'a>(bench: &'a Bench, vms: &[Value; 2]) -> (Daemon<'a>, Pid) {
    bench.assign(vms);
    let mut daemon = bench.start();
    bench.until("both run", || both_run(bench));
    let process = Pid::from_raw(host_process_of(bench, "a")).expect("a process");
    daemon.kill();
    kill_process(process, Signal::STOP).expect("it is there");
    (bench.start(), process)
}

/// What is told of the VM `a`.
fn reason_of_a(bench: &Bench) -> String {
    let vms = bench.vms();
    let reason = vms.first().and_then(|vm| vm["reason"]["message"].as_str());
    reason.unwrap_or_default().to_owned()
}

fn degradations(bench: &Bench) -> String {
    bench.status()["degradations"].to_string()
}

#[test]
fn a_process_that_answers_late_is_taken_over_by_the_worker_that_runs() {
    isolated(|bench| {
        let (mut daemon, process) = beside_a_silent_process(&bench, &a_and_b(&bench));
        let (holder, wires) = (process.as_raw_nonzero().get(), links());
        bench.until("the other one goes on", || bench.phases().contains(&"b running".to_owned()));
        let told = degradations(&bench);
        assert!(told.contains(&format!("(process {holder}; VMs: a)")), "{told}");
        bench.until("it is told", || {
            bench.phases()[0] == "a restarting"
                && reason_of_a(&bench).contains(&format!("process {holder} of this host holds the lock"))
        });

        kill_process(process, Signal::CONT).expect("it is there");
        bench.until("both run", || both_run(&bench));
        assert_eq!((host_process_of(&bench, "a"), links()), (holder, wires));
        assert_eq!(reason_of_a(&bench), "");
        let [a, b] = &lives(&bench)[..] else { panic!("two VMs") };
        assert_eq!((&a.2, &b.2), (&0.into(), &0.into()), "neither was restarted");
        bench.until("nobody is a stranger", || !degradations(&bench).contains("was not taken over"));
        // What was taken over late obeys its power button, and its TAP is ours again.
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn nothing_of_a_vm_is_deleted_beside_a_process_that_was_not_taken_over() {
    isolated(|bench| {
        let vms = a_and_b(&bench);
        let (_daemon, process) = beside_a_silent_process(&bench, &vms);
        let holder = process.as_raw_nonzero().get();
        bench.assign(&vms[1..]);
        bench.until("its removal is refused", || {
            bench.phases()[0] == "a stopping"
                && reason_of_a(&bench).contains(&format!("process {holder} of this host holds the lock"))
        });
        assert!(bench.path("state/vms/a/lock").exists() && bench.path("state/vms/a/record.json").exists());
        assert_eq!(host_process_of(&bench, "a"), holder, "it runs on");
        let refused = bench.client(&["rm", "a"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(&format!("process {holder}")), "{told}");

        kill_process(process, Signal::CONT).expect("it is there");
        bench.until("it is removed", || bench.phases() == ["b running"]);
        bench.until("its process is gone", || !host_processes(&bench).contains(&holder));
    });
}

#[test]
fn a_worker_that_is_to_stop_guests_ends_beside_one_that_it_cannot_stop() {
    isolated(|bench| {
        let vms = a_and_b(&bench);
        let (mut daemon, process) = beside_a_silent_process(&bench, &vms);
        let holder = process.as_raw_nonzero().get();
        let mut stopped = vms[0].clone();
        stopped["desired"] = "stopped".into();
        bench.assign(&[stopped, vms[1].clone()]);
        bench.until("it is not told to be stopped", || bench.phases()[0] == "a stopping");
        bench.assign(&vms);
        bench.until("it is wanted again", || bench.phases()[0] != "a stopping");
        // The time that guests have, and a minute, is more than this waits.
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(1), "{}", bench.log());
        let told = format!("process {holder} of this host holds the lock");
        assert!(
            bench.log().contains("the VM was not stopped") && bench.log().contains(&told),
            "{}",
            bench.log()
        );
        assert!(links().len() > 1, "its network is left to it");

        kill_process(process, Signal::CONT).expect("it is there");
        let _daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        assert_eq!(host_process_of(&bench, "a"), holder, "{}", bench.log());
    });
}

#[test]
fn what_was_to_be_stopped_while_its_process_was_silent_is_stopped_when_it_answers() {
    isolated(|bench| {
        let vms = a_and_b(&bench);
        let (mut daemon, process) = beside_a_silent_process(&bench, &vms);
        let mut stopped = vms[0].clone();
        stopped["desired"] = "stopped".into();
        bench.assign(&[stopped, vms[1].clone()]);
        bench.until("it is not told to be stopped", || bench.phases()[0] == "a stopping");
        // The next worker knows of it from its first moment on, and finds nothing to change.
        daemon.kill();
        let _daemon = bench.start();
        bench.until("the other one goes on", || bench.phases().contains(&"b running".to_owned()));
        kill_process(process, Signal::CONT).expect("it is there");
        bench.until("it is stopped", || bench.phases() == ["a stopped", "b running"]);
        assert_eq!(bench.vms()[0]["desired"], "stopped");
    });
}

#[test]
fn a_runtime_directory_that_was_removed_comes_back_and_the_vms_without_sockets_are_told() {
    isolated(|bench| {
        two_vms(&bench);
        let mut daemon = bench.start();
        bench.until("both run", || both_run(&bench));
        fs::remove_dir_all(bench.path("run")).expect("removed");
        bench.until("it answers again", || bench.client(&["ls"]).status.success());
        let told = degradations(&bench);
        assert!(told.contains("would take over these VMs: a, b;"), "{told}");
        let restarted = bench.client(&["restart", "a"]);
        assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
        let told = degradations(&bench);
        assert!(told.contains("would take over these VMs: b;"), "{told}");
        let mode = |name| fs::metadata(bench.path(name)).expect("there").mode() & 0o777;
        assert_eq!((mode("run"), mode("run/hosts")), (0o755, 0o700));

        let [of_a, of_b] = ["a", "b"].map(|id| host_process_of(&bench, id));
        daemon.kill();
        let _daemon = bench.start();
        bench.until("a is taken over", || bench.phases().contains(&"a running".to_owned()));
        assert_eq!(host_process_of(&bench, "a"), of_a, "{}", bench.log());
        kill_process(Pid::from_raw(of_b).expect("a process"), Signal::KILL).expect("it is there");
        bench.until("both run", || both_run(&bench));
    });
}

//! A worker that is killed while a host process launches a machine for it. The launch is held up for as long as a file is
//! there, so that the next worker comes in the midst of it.

use std::fs;

use fail_points::{FailPoint, Trigger, VARIABLE};
use host_process::client::{SeenAnswer, SeenMachine, look_at_processes};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, host_processes, isolated, links};
use crate::outliving::host_process_of;

/// The machines that host processes tell of to whoever looks.
fn listed(bench: &Bench) -> Vec<SeenMachine> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = runtime.block_on(look_at_processes(&bench.path("run/hosts"))).expect("listed");
    let machines = seen.into_iter().map(|process| match process.answer {
        SeenAnswer::Welcome { machines, .. } => machines,
        SeenAnswer::Problem(_) => Vec::new(),
    });
    machines.flatten().collect()
}

/// Whether the launch of `a`, and nothing else, is listed as under way.
fn is_under_way(bench: &Bench) -> bool {
    matches!(&listed(bench)[..], [machine] if machine.vm.as_str() == "a" && machine.launching)
}

#[test]
fn a_launch_under_way_is_listed_and_given_up_and_its_vm_runs_once() {
    isolated(|bench| {
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        fs::write(bench.path("worker.toml"), format!("spare_host_processes = 0\njail = 'off'\n{config}"))
            .expect("written");
        // In a jail the process does not see what holds it up.
        let hold = bench.path("hold");
        fs::write(&hold, "").expect("written");
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut command = bench.command();
        command.env(VARIABLE, Trigger::first(FailPoint::MachineBuilding).while_there(&hold).to_string());
        let mut daemon = bench.start_with(command);
        bench.until("the launch is listed", || is_under_way(&bench));
        let holder = host_process_of(&bench, "a");

        daemon.kill();
        assert!(is_under_way(&bench), "it goes on as long as it is held up");
        let mut daemon = bench.start();
        let given_up = "a launch that the worker before did not see through is given up";
        assert!(bench.log().contains(given_up), "{}", bench.log());
        let told = format!("process {holder} of this host holds the lock");
        bench.until("the VM waits for it", || {
            let vm = &bench.vms()[0];
            vm["reason"]["message"].as_str().is_some_and(|reason| reason.contains(&told))
        });
        assert_eq!(host_processes(&bench), [holder], "no other is started for it");

        fs::remove_file(&hold).expect("it was there");
        bench.until("it runs", || bench.phases() == ["a running"]);
        bench.until("the first process is gone", || host_processes(&bench).len() == 1);
        assert_ne!(host_process_of(&bench, "a"), holder);
        let [machine] = &listed(&bench)[..] else { panic!("one machine") };
        assert!(!machine.launching);
        assert_eq!(links().iter().filter(|link| link.starts_with("pw-")).count(), 1, "{:?}", links());
        bench.until("its guest has spoken", || {
            let console = bench.client(&["logs", "a"]).stdout;
            String::from_utf8_lossy(&console).matches("ready").count() == 1
        });
        daemon.signal(rustix::process::Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
        bench.until("no process is left", || host_processes(&bench).is_empty());
    });
}

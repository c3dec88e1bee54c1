//! Limits of the worker's settings that VMs which run already would not fit.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use tiny_guest::TinyGuest;

use crate::bench::isolated;
use crate::outliving::host_process_of;

#[test]
fn a_restart_that_the_settings_limits_would_refuse_ends_no_guest() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let started = bench.vms()[0]["started_at"].clone();
        daemon.kill();

        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("{config}\n[limits]\nprocesses = 8\n"));
        let _daemon = bench.start();
        bench.until("it is taken over", || bench.phases() == ["a running"]);
        for arguments in [&["restart", "a"][..], &["restart", "--force", "a"]] {
            let refused = bench.client(arguments);
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{told}");
            assert!(told.contains("goes on as it is: the worker's setting limits.processes is 8"), "{told}");
        }
        assert_eq!(
            (bench.phases(), bench.vms()[0]["started_at"].clone()),
            (vec!["a running".to_owned()], started)
        );

        // Where it ends all the same, it is the host that its next start lacks something of.
        let process = Pid::from_raw(host_process_of(&bench, "a")).expect("an id");
        kill_process(process, Signal::KILL).expect("it is there");
        bench.until("its start is refused", || {
            let reason = &bench.vms()[0]["reason"];
            reason["kind"] == "host" && reason["message"].to_string().contains("limits.processes is 8")
        });
    });
}

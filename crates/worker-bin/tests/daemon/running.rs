//! From start to end, by signal and by accident.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tiny_guest::TinyGuest;

use crate::bench::{entries, isolated, links};

#[test]
fn vms_follow_the_file_and_nothing_is_left_at_the_end() {
    isolated(|bench| {
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        bench.assign(&[a.clone(), b]);
        let mut daemon = bench.start();
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        bench.until("it has spoken", || {
            String::from_utf8_lossy(&bench.client(&["logs", "a"]).stdout).contains("ready")
        });
        let listed = String::from_utf8(bench.client(&["ls"]).stdout).expect("text");
        assert!(listed.starts_with("ID  PHASE") && listed.contains("10.78.0.2"), "{listed}");
        bench.assign(&[a]);
        bench.until("one is gone", || bench.phases() == ["a running"]);
        assert_eq!(links().len(), 3, "lo, the bridge and one TAP: {:?}", links());
        assert_eq!(entries(&bench.path("state/vms")), ["a"]);

        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(links(), ["lo"]);
        assert_eq!(entries(&bench.path("run/hosts")), [""; 0]);
        assert_eq!(entries(&bench.path("run")), ["hosts"]);
        assert_eq!(bench.client(&["ls"]).status.code(), Some(69), "nobody answers any more");
    });
}

#[test]
fn what_the_worker_keeps_is_its_own_whatever_it_was_started_with() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let worker = bench.command();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(&bench.program).args(worker.get_args());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stderr(File::create(bench.path("log")).expect("created"));
        let _daemon = bench.start_with(command);
        bench.until("it runs", || bench.phases() == ["a running"]);
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&bench.path("run")), 0o755, "others go through it to their socket");
        let mut folders = vec![bench.path("state")];
        while let Some(folder) = folders.pop() {
            assert_eq!(mode(&folder) & 0o022, 0, "{}", folder.display());
            for entry in fs::read_dir(&folder).expect("listed") {
                let entry = entry.expect("readable");
                match entry.file_type().expect("known") {
                    kind if kind.is_dir() => folders.push(entry.path()),
                    kind if kind.is_file() => {
                        assert_eq!(mode(&entry.path()) & 0o077, 0, "{}", entry.path().display());
                    }
                    _ => {}
                }
            }
        }
    });
}

#[test]
fn a_second_signal_does_not_wait_for_guests() {
    isolated(|bench| {
        bench.assign(&[bench.vm("deaf", &TinyGuest::spin())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["deaf running"]);
        let begun = Instant::now();
        daemon.signal(Signal::INT);
        bench.until("it is being stopped", || bench.phases() == ["deaf stopping"]);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert!(begun.elapsed() < Duration::from_secs(35), "it took {:?}", begun.elapsed());
        assert_eq!(links(), ["lo"]);
    });
}

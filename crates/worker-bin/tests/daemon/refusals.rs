//! What keeps the program from starting: one clear error, the right exit code, and nothing left.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::bench::{Bench, entries, isolated, links};

/// Asserts that the program refuses with `words`, and leaves nothing.
fn refuses(bench: &Bench, command: std::process::Command, words: &[&str]) {
    let (code, said) = bench.outcome(command);
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(links(), ["lo"]);
    assert!(!bench.path("run/worker.sock").exists());
}

#[test]
fn wrong_settings_are_refused_by_their_names() {
    isolated(|bench| {
        let configured = |text: &str| {
            fs::write(bench.path("worker.toml"), text).expect("written");
            bench.command()
        };
        refuses(&bench, configured("brigde = 1"), &["worker.toml", "brigde"]);
        refuses(&bench, configured("stop_timeout_seconds = 0"), &["stop_timeout_seconds = 0", "1 to 86400"]);
        refuses(&bench, configured("[network]\nsubnet = 'x'"), &["network.subnet = \"x\"", "10.100.0.0/16"]);
        refuses(&bench, configured("[network]\nbridge = 'a/b'"), &["network.bridge = \"a/b\""]);
        let without_jail = "jail = 'required'\nvms_per_host_process = 0";
        refuses(&bench, configured(without_jail), &["jail = \"required\"", "vms_per_host_process = 0"]);
        let mut command = configured("");
        command.env("PROCURATOR_LOG", "worker=loud");
        refuses(&bench, command, &["PROCURATOR_LOG=\"worker=loud\"", "worker=debug"]);
        let mut command = bench.command();
        command.arg("--store-root").arg("/nonexistent");
        refuses(&bench, command, &["store_roots", "/nonexistent"]);
        let mut command = bench.command();
        command.arg("--log-format").arg("loud");
        assert_eq!(bench.outcome(command).0, Some(2));
        let mut command = bench.command();
        command.env("PROCURATOR_STOP_GUESTS", "maybe");
        let (code, said) = bench.outcome(command);
        assert!(code == Some(2) && said.contains("maybe"), "{said}");
    });
}

#[test]
fn paths_that_cannot_be_used_are_refused_before_anything_is_set_up() {
    isolated(|bench| {
        let mut command = bench.command();
        command.arg("--assignments").arg("..");
        assert_eq!(bench.outcome(command).0, Some(2), "given twice");
        fs::create_dir(bench.path("run")).expect("created");
        fs::write(bench.path("run/worker.sock"), "precious").expect("written");
        let (code, said) = bench.outcome(bench.command());
        assert_eq!(code, Some(1));
        assert!(said.contains("run/worker.sock") && said.contains("no socket"), "{said}");
        fs::remove_file(bench.path("run/worker.sock")).expect("removed");
        assert_eq!(entries(&bench.path("state")), ["worker.lock"], "nothing else was made");
        fs::remove_dir_all(bench.path("state")).expect("removed");
        fs::write(bench.path("state"), "in the way").expect("written");
        refuses(&bench, bench.command(), &["the state directory", "/state"]);
    });
}

#[test]
fn a_second_worker_is_told_which_process_has_the_state_directory() {
    isolated(|bench| {
        bench.assign(&[]);
        let daemon = bench.start();
        let (code, said) = bench.outcome(bench.command());
        assert_eq!(code, Some(1), "{said}");
        let process = daemon.pid().as_raw_nonzero();
        assert!(said.contains("another worker uses it: "), "{said}");
        // Some file systems number files otherwise than the list of locks does, and nobody is named there.
        if said.contains("is locked by") {
            assert!(said.contains(&format!("is locked by process {process}; stop that worker")), "{said}");
        }
        assert!(bench.client(&["ls"]).status.success(), "the first one goes on");
    });
}

#[test]
fn a_host_without_kvm_is_told_what_is_missing_and_how_to_get_it() {
    isolated(|bench| {
        // An empty directory of devices but for what any program needs.
        let devices = CString::new("mode=755").expect("no zero in it");
        mount("none", "/dev", "tmpfs", MountFlags::empty(), devices.as_c_str()).expect("mounted");
        let null = Mode::from_raw_mode(0o666);
        mknodat(CWD, "/dev/null", FileType::CharacterDevice, null, makedev(1, 3)).expect("made");
        refuses(&bench, bench.command(), &["/dev/kvm", "kvm_intel"]);
    });
}

#[test]
fn who_may_not_use_kvm_is_told_so() {
    isolated(|mut bench| {
        // Where nobody can reach: the program, its directory, and a device that is root's alone.
        let program = bench.path("procurator-worker");
        fs::copy(&bench.program, &program).expect("copied");
        bench.program = program;
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(bench.path(""), everybody).expect("opened");
        let node = bench.path("kvm");
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(10, 232))
            .expect("made");
        mount_bind(&node, "/dev/kvm").expect("mounted");
        let mut command = bench.command();
        command.uid(65534).gid(65534);
        refuses(&bench, command, &["/dev/kvm", "ermission"]);
    });
}

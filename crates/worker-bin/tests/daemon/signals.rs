//! Every signal that can be sent to the program, and what becomes of its guests.

use std::fs;

use rustix::process::{Signal, kill_process};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

/// Signals from which nothing follows but a line in the log.
const IGNORED: [(Signal, &str); 11] = [
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::STKFLT, "SIGSTKFLT"),
    (Signal::TSTP, "SIGTSTP"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::PROF, "SIGPROF"),
    (Signal::IO, "SIGIO"),
    (Signal::POWER, "SIGPWR"),
];
/// Signals from which nothing follows at all.
const SILENT: [Signal; 6] =
    [Signal::PIPE, Signal::TTIN, Signal::TTOU, Signal::CONT, Signal::WINCH, Signal::URG];

fn starts(bench: &Bench) -> Vec<serde_json::Value> {
    bench.vms().iter().map(|vm| vm["restarts"].clone()).collect()
}

#[test]
fn signals_that_mean_nothing_do_nothing_to_guests() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        for (signal, name) in IGNORED {
            daemon.signal(signal);
            bench.until(&format!("{name} is said"), || bench.log().contains(&format!("signal=\"{name}\"")));
        }
        SILENT.into_iter().for_each(|signal| daemon.signal(signal));
        for number in 35..=64 {
            // There is no safe way to send these but by a program.
            let pid = daemon.pid().as_raw_nonzero().to_string();
            let sent = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("kill -{number} {pid}")])
                .status()
                .expect("a shell");
            assert!(sent.success(), "signal {number}");
        }
        bench.until("the last is said", || bench.log().contains("signal 64"));
        let state =
            fs::read_to_string(format!("/proc/{}/stat", daemon.pid().as_raw_nonzero())).expect("there");
        assert!(!state.contains(") T "), "it was stopped: {state}");
        assert_eq!((bench.phases(), starts(&bench)), (vec!["a running".to_owned()], vec![0.into()]));
        daemon.signal(Signal::QUIT);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert!(bench.log().contains("SIGQUIT"));
    });
}

#[test]
fn a_hang_up_reads_everything_again_and_ends_nobody() {
    isolated(|bench| {
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        bench.assign(std::slice::from_ref(&a));
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        let configure =
            |more: &str| fs::write(bench.path("worker.toml"), format!("{more}\n{config}")).expect("written");
        let other = bench.path("other.json");
        configure(&format!("assignments = {:?}", bench.path("vms.json")));
        let mut command = std::process::Command::new(&bench.program);
        // The flag would win over the file.
        let base = bench.command();
        let arguments: Vec<_> = base.get_args().collect();
        let flag = arguments.iter().position(|argument| *argument == "--assignments").expect("given");
        command.args(&arguments[..flag]).args(&arguments[flag + 2..]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stderr(fs::File::create(bench.path("log")).expect("created"));
        let mut daemon = bench.start_with(command);
        bench.until("it runs", || bench.phases() == ["a running"]);

        fs::write(&other, serde_json::json!({ "vms": [a, b] }).to_string()).expect("written");
        configure(&format!("assignments = {other:?}\nauto_restart = false"));
        daemon.signal(Signal::HUP);
        bench.until("the other file is followed", || bench.phases() == ["a running", "b running"]);
        let line =
            |words: &[&str]| bench.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
        bench.until("it is said", || line(&["auto_restart", "need a restart"]));
        assert!(line(&["other.json", "was taken"]), "{}", bench.log());

        configure("auto_restrat = true");
        daemon.signal(Signal::HUP);
        bench.until("a mistake is said", || line(&["auto_restrat", "the one in force stays"]));
        assert_eq!(bench.phases(), ["a running", "b running"]);
        assert_eq!(starts(&bench), [0, 0]);
        kill_process(daemon.pid(), Signal::TERM).expect("there");
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

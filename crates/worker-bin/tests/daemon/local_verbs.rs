//! Verbs that work without a worker, as somebody at a shell uses them.

use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::terminal::Terminal;

/// What bash completes the last of `words` to.
fn completed(bench: &Bench, words: &[&str]) -> Vec<String> {
    let script = r#"
        set -eu
        eval "$("$PROGRAM" completion bash)"
        # The script calls the program by its name.
        procurator-worker() { "$PROGRAM" "$@"; }
        COMP_WORDS=(procurator-worker "$@")
        COMP_CWORD=$#
        COMP_TYPE=9
        COMPREPLY=()
        _clap_complete_procurator_worker procurator-worker "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]).args(words).env_clear();
    bash.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    bash.env("PROGRAM", &bench.program).env("PROCURATOR_RUNTIME_DIR", bench.path("run"));
    let output = bash.output().expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn bash_completes_verbs_and_the_names_of_vms() {
    isolated(|bench| {
        assert_eq!(completed(&bench, &["inspe"]), ["inspect"]);
        assert_eq!(completed(&bench, &["inspect", "web"]), [""], "nobody can tell names");
        let vms = ["web-1", "web-2", "db"].map(|id| bench.vm(id, &TinyGuest::power_button()));
        bench.assign(&vms);
        let mut daemon = bench.start();
        bench.until("they are known", || bench.phases().len() == 3);
        assert_eq!(completed(&bench, &["inspect", "web"]), ["web-1", "web-2"]);
        assert_eq!(completed(&bench, &["rm", "web-1", "d"]), ["db"]);
        daemon.signal(Signal::TERM);
        daemon.ended();
    });
}

#[test]
fn the_tab_key_of_an_interactive_bash_completes_names_of_the_worker_that_runs() {
    isolated(|bench| {
        bench.assign(&["web-1", "db"].map(|id| bench.vm(id, &TinyGuest::power_button())));
        let mut daemon = bench.start();
        bench.until("they are known", || bench.phases().len() == 2);
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-i"]).env_clear();
        bash.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "dumb").env("PS1", "$ ");
        bash.env("PROGRAM", &bench.program).env("PROCURATOR_RUNTIME_DIR", bench.path("run"));
        let terminal = Terminal::open(bash);
        terminal.type_in("eval \"$(\"$PROGRAM\" completion bash)\"; procurator-worker() { \"$PROGRAM\" \"$@\"; }; echo re''ady\n");
        terminal.until_shows("ready");
        terminal.type_in("procurator-worker insp\t");
        terminal.until_shows("procurator-worker inspect ");
        terminal.type_in("we\t");
        terminal.until_shows("procurator-worker inspect web-1");
        terminal.type_in("\u{3}exit\n");
        daemon.signal(Signal::TERM);
        daemon.ended();
    });
}

/// Runs a verb with the bench's configuration.
fn verb(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = Command::new(&bench.program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("PROCURATOR_CONFIG", bench.path("worker.toml"));
    command.env("PROCURATOR_STATE_DIR", bench.path("state"));
    command.env("PROCURATOR_STORE_ROOTS", bench.path("store"));
    command.env("PROCURATOR_RUNTIME_DIR", bench.path("run"));
    command.output().expect("started")
}

/// The findings of `doctor` about `check`, as verdict and words.
fn findings(answer: &Value, check: &str) -> Vec<(String, String)> {
    let all = answer["findings"].as_array().expect("findings");
    let about = all.iter().filter(|finding| finding["check"] == check);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    about.map(|finding| (text(&finding["verdict"]), text(&finding["found"]))).collect()
}

#[test]
fn doctor_looks_at_a_host_with_and_without_a_worker_and_fails_where_a_check_fails() {
    isolated(|bench| {
        bench.assign(&[]);
        let doctor = || -> (Option<i32>, Value) {
            let output = verb(&bench, &["doctor", "--json"]);
            let answer = serde_json::from_slice(&output.stdout);
            (
                output.status.code(),
                answer.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))),
            )
        };
        let (_, without) = doctor();
        assert_eq!(findings(&without, "KVM")[0].0, "ok", "{without}");
        assert_eq!(findings(&without, "capabilities")[0].0, "ok");
        assert_eq!(findings(&without, "packet filter")[0].0, "ok", "{without}");
        assert_eq!(findings(&without, "worker")[0].0, "warn");
        let mut daemon = bench.start();
        let (_, with) = doctor();
        assert_eq!(findings(&with, "worker")[0].0, "ok", "{with}");
        assert_eq!(findings(&with, "subnet")[0].0, "ok", "the bridge's own route: {with}");
        daemon.signal(Signal::TERM);
        daemon.ended();

        bench.configure("brigde = 1\n");
        let (code, broken) = doctor();
        assert_eq!(code, Some(1));
        assert_eq!(broken["verdict"], "fail");
        let (verdict, found) = &findings(&broken, "configuration")[0];
        assert!(verdict == "fail" && found.contains("line 1: brigde = 1"), "{broken}");
        let shown = String::from_utf8(verb(&bench, &["doctor"]).stdout).expect("text");
        assert!(shown.contains("procurator-worker check-config"), "{shown}");
        assert!(!shown.contains('\x1b'), "colours are for terminals: {shown}");
    });
}

#[test]
fn check_config_says_what_run_would_and_where_values_come_from() {
    isolated(|bench| {
        bench.configure("stop_timeout_seconds = 0\n[network]\nsubnets = 'x'\n");
        let output = verb(&bench, &["check-config"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(said.contains("worker.toml:1: stop_timeout_seconds = 0: is not accepted"), "{said}");
        assert!(said.contains("worker.toml:3: network.subnets = 'x': is no known key"), "{said}");

        bench.configure("[network]\nsubnet = '10.78.0.0/24'\n");
        let printed = verb(&bench, &["check-config", "--print"]);
        assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
        let printed = String::from_utf8(printed.stdout).expect("text");
        assert!(printed.contains("subnet = '10.78.0.0/24'  # file"), "{printed}");
        for variable in ["PROCURATOR_STATE_DIR", "PROCURATOR_RUNTIME_DIR"] {
            assert!(printed.contains(&format!("# environment: {variable}")), "{printed}");
        }
        bench.configure(&printed);
        assert_eq!(verb(&bench, &["check-config"]).status.code(), Some(0), "it is a configuration itself");

        // What `run` refuses is no sound configuration.
        let refused = |variable: &str, value: &str, text: &str| {
            bench.configure(text);
            let mut command = std::process::Command::new(&bench.program);
            command.args(["check-config"]).env_clear().env("PROCURATOR_CONFIG", bench.path("worker.toml"));
            command.env("PROCURATOR_STORE_ROOTS", bench.path("store")).env(variable, value);
            let output = command.output().expect("started");
            assert_eq!(output.status.code(), Some(1), "{variable}={value} {text}");
            String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
        };
        assert!(refused("PROCURATOR_LOG", "worker=loud", "").contains("PROCURATOR_LOG=\"worker=loud\""));
        assert!(refused("PROCURATOR_STORE_ROOTS", "store", "").contains("store_roots = \"store\""));
        let said = refused("A", "b", "\n[admin]\ngroup = 'no-such-group'\n");
        assert!(said.contains("worker.toml:3: ") && said.contains("no-such-group"), "{said}");
        assert!(refused("PROCURATOR_STOP_GUESTS", "maybe", "").contains("maybe"));

        bench.assign_text("{\"vms\": [{\"id\": \"a\"}]}");
        let path = bench.path("vms.json");
        let output = verb(&bench, &["check-config", "--assignments", path.to_str().expect("text")]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(said.contains("line 1, column 10, vms[0]: the key \"hash\" is missing"), "{said}");
    });
}

//! Consoles, as people and pipes sit at them: typing, reading together, one pen, and workers that come and go.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::terminal::Terminal;

/// `procurator-worker` with `arguments` against the bench's worker.
fn verb(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.program);
    command.args(arguments).arg("--runtime-dir").arg(bench.path("run")).env_clear();
    command
}

/// What the verb says when `input` is piped into it.
fn piped(bench: &Bench, arguments: &[&str], input: &str) -> Output {
    let mut command = verb(bench, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    // One that is refused may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn echo_runs(bench: &Bench) {
    bench.assign(&[bench.vm("a", &TinyGuest::echo())]);
}

fn has_spoken(bench: &Bench) {
    bench.until("it has spoken", || text(&bench.client(&["logs", "a"]).stdout).contains("ready"));
}

#[test]
fn a_pipe_types_and_reads() {
    isolated(|bench| {
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        let log = bench.path("console.log");
        let said = piped(&bench, &["console", "a", "--log", log.to_str().expect("text")], "hello\n");
        assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
        assert_eq!(text(&said.stdout), "ready\nhello\n");
        assert_eq!(std::fs::read_to_string(&log).expect("written"), "ready\nhello\n");
        assert_eq!(text(&said.stderr), "", "a pipe hears nothing but the guest");

        let long = "0123456789".repeat(100);
        let said = piped(&bench, &["console", "a", "--tail", "0"], &format!("{long}\n"));
        assert_eq!(text(&said.stdout), format!("{long}\n"), "more than a serial port's buffer");

        let refused = piped(&bench, &["console", "b"], "");
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            text(&refused.stderr).contains("there is no VM b; the nearest is a"),
            "{}",
            text(&refused.stderr)
        );
        let listed = text(&bench.client(&["logs", "a", "--boots"]).stdout);
        assert!(listed.contains("1 (newest)"), "{listed}");
        assert_eq!(text(&bench.client(&["logs", "a", "--tail", "2"]).stdout), format!("hello\n{long}\n"));
        assert_eq!(
            text(&bench.client(&["logs", "a", "--boot", "1"]).stdout),
            format!("ready\nhello\n{long}\n")
        );
        let none = bench.client(&["logs", "a", "--boot", "-1"]);
        assert!(text(&none.stderr).contains("no boot -1 is kept"), "{}", text(&none.stderr));
        assert!(bench.log().contains("attached to type"), "who attached is audited: {}", bench.log());
        daemon.kill();
    });
}

#[test]
fn many_read_one_types_and_whoever_is_robbed_goes_on_reading() {
    isolated(|bench| {
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        let first = Terminal::open(verb(&bench, &["console", "a"]));
        first.until_shows("^] leaves");
        first.until_shows("ready");
        let reader = Terminal::open(verb(&bench, &["console", "a", "--read-only"]));
        let second = Terminal::open(verb(&bench, &["console", "a"]));
        second.until_shows("types at this console; you read");
        first.type_in("from-the-first ");
        for terminal in [&first, &reader, &second] {
            terminal.until_shows("from-the-first ");
        }
        second.type_in("from-nobody ");
        second.until_shows("goes nowhere");
        let refused = piped(&bench, &["console", "a"], "from-a-pipe ");
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("--steal takes it"), "{}", text(&refused.stderr));

        let thief = Terminal::open(verb(&bench, &["console", "a", "--steal"]));
        first.until_shows("has taken the pen; you go on reading");
        thief.type_in("from-the-thief ");
        for terminal in [&first, &reader, &second, &thief] {
            terminal.until_shows("from-the-thief ");
        }
        assert!(!first.shown().contains("from-nobody") && !first.shown().contains("from-a-pipe"));
        thief.type_in("\u{1d}");
        assert_eq!(thief.ended(), Some(0));
        bench.until("the pen is free again", || {
            let said = piped(&bench, &["console", "a", "--tail", "0"], "from-a-pipe ");
            text(&said.stdout).contains("from-a-pipe ")
        });
        assert!(bench.log().contains("stolen_from=0"), "{}", bench.log());
        // Who reads may type once nobody else does.
        second.type_in("from-the-second ");
        for terminal in [&first, &reader, &second] {
            terminal.until_shows("from-the-second ");
        }
        first.type_in("from-the-robbed ");
        first.until_shows("goes nowhere");
        reader.signal(Signal::INT);
        assert_eq!(reader.ended(), Some(0), "that is how a reader leaves: {}", reader.shown());
        daemon.kill();
    });
}

#[test]
fn the_terminal_is_as_before_however_the_session_ends() {
    isolated(|bench| {
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        for signal in [None, Some(Signal::TERM), Some(Signal::HUP), Some(Signal::INT)] {
            let terminal = Terminal::open(verb(&bench, &["console", "a"]));
            terminal.until_shows("ready");
            assert!(terminal.is_raw(), "every key is the guest's");
            terminal.type_in("\u{3}");
            match signal {
                None => terminal.type_in("\u{1d}"),
                Some(signal) => terminal.signal(signal),
            }
            let code = terminal.ended();
            assert!(!terminal.is_raw(), "{signal:?}");
            assert_eq!(code, Some(i32::from(signal.is_some())), "{signal:?}: {}", terminal.shown());
        }
        daemon.kill();
    });
}

#[test]
fn a_session_outlives_the_guest_and_the_worker() {
    isolated(|bench| {
        bench.leave_guests();
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        let terminal = Terminal::open(verb(&bench, &["console", "a"]));
        terminal.until_shows("ready");
        daemon.kill();
        terminal.until_shows("the worker went away");
        let mut daemon = bench.start();
        bench.until("what is typed arrives again", || {
            terminal.type_in("x");
            terminal.shown().ends_with('x')
        });
        // A worker that ends in order does not say that the VM is gone.
        daemon.signal(Signal::TERM);
        daemon.ended();
        let mut daemon = bench.start();
        bench.until("it is attached again", || bench.log().matches("attached to type").count() == 3);
        bench.until("what is typed arrives once more", || {
            terminal.type_in("z");
            terminal.shown().ends_with('z')
        });
        let shown = terminal.shown();
        assert_eq!(shown.matches("ready").count(), 1, "nothing is shown twice: {shown}");

        // The guest switches itself off, and another boot of it follows.
        terminal.type_in("q");
        bench.until("it is off", || bench.phases() == ["a stopped"]);
        bench.assign(&[]);
        bench.until("nothing is left", || {
            // Refused until the file was read.
            let _ = bench.client(&["allow-removals"]);
            bench.phases().is_empty()
        });
        terminal.until_shows("VM a is gone");
        assert_eq!(terminal.ended(), Some(1));
        daemon.kill();
    });
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    isolated(|bench| {
        // More than the socket takes for who does not read.
        let (line, count) = (format!("{}\n", "x".repeat(4000)), 70);
        bench.assign(&[bench.vm("a", &TinyGuest::chatter(line, count))]);
        let mut daemon = bench.start();
        bench.until("it is there", || !bench.phases().is_empty());
        let mut deaf = UnixStream::connect(bench.path("run/worker.sock")).expect("connected");
        deaf.write_all(
            b"GET /v1/vms/a/console/attach?follow=true&boot=0&offset=0 HTTP/1.1\r\nhost: worker\r\n\
              connection: upgrade\r\nupgrade: procurator-console\r\n\r\n",
        )
        .expect("sent");
        bench.until("it has written all", || bench.phases() == ["a stopped"]);
        let all = bench.client(&["logs", "a"]).stdout;
        assert_eq!(all.len(), 70 * 4001);
        deaf.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let (mut taken, mut buffer) = (0, vec![0; 64 << 10]);
        while taken < all.len() {
            let bytes = deaf.read(&mut buffer).expect("what waited for it comes");
            assert!(bytes > 0, "the session ended after {taken} bytes");
            taken += bytes;
        }
        daemon.kill();
    });
}

/// How long a key takes to the guest and back. Not asserted: machines differ.
#[test]
fn keys_come_back() {
    isolated(|bench| {
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        let terminal = Terminal::open(verb(&bench, &["console", "a"]));
        terminal.until_shows("ready");
        let mut times: Vec<Duration> = (0..20)
            .map(|number| {
                let key = format!("<{number}>");
                let begun = Instant::now();
                terminal.type_in(&key);
                terminal.until_shows(&key);
                begun.elapsed()
            })
            .collect();
        times.sort();
        println!("a key and its echo: median {:?}, longest {:?}", times[10], times[19]);
        daemon.kill();
    });
}

#[test]
fn nothing_is_piped_to_a_vm_that_is_off() {
    isolated(|bench| {
        echo_runs(&bench);
        let mut daemon = bench.start();
        has_spoken(&bench);
        assert!(bench.client(&["stop", "a", "--force"]).status.success());
        let refused = piped(&bench, &["console", "a"], "hello\n");
        assert_eq!(refused.status.code(), Some(1));
        let why = text(&refused.stderr);
        assert!(why.contains("VM a is stopped") && why.contains("start a"), "{why}");
        daemon.kill();
    });
}

//! Standard error that takes nothing: VMs follow their file, the status tells, and a signal ends the worker in order.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::outliving::host_process_of;

/// Runs VMs under a worker with the standard error that `prepare` gives it.
fn works(bench: &Bench, prepare: impl FnOnce(&mut Command)) {
    let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
    bench.assign(std::slice::from_ref(&a));
    let mut command = bench.command();
    command.env("PROCURATOR_LOG", "trace");
    prepare(&mut command);
    let mut daemon = bench.start_with(command);
    bench.until("it runs", || bench.phases() == ["a running"]);
    bench.assign(&[a.clone(), b]);
    bench.until("both run", || bench.phases() == ["a running", "b running"]);
    bench.assign(&[a]);
    bench.until("one is gone", || bench.phases() == ["a running"]);
    bench.until("losses are counted", || bench.status()["log_lines_dropped"].as_u64() > Some(0));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0));
}

/// A pipe that is full.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
    while writer.write(&[b'.'; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).expect("set");
    (reader, writer.into())
}

#[test]
fn a_full_device_hurts_nobody() {
    isolated(|bench| {
        works(&bench, |command| {
            command.stderr(File::options().write(true).open("/dev/full").expect("opened"));
        });
    });
}

#[test]
fn a_pipe_that_was_closed_hurts_nobody() {
    isolated(|bench| {
        works(&bench, |command| {
            let (reader, writer) = pipe().expect("a pipe");
            drop(reader);
            command.stderr(writer);
        });
    });
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up_and_losses_are_logged_once_there_is_room() {
    isolated(|bench| {
        let (mut reader, writer) = full_pipe();
        let vm = bench.vm("a", &TinyGuest::power_button());
        bench.assign(std::slice::from_ref(&vm));
        let mut command = bench.command();
        command.stderr(writer);
        let mut daemon = bench.start_with(command);
        bench.until("it runs", || bench.phases() == ["a running"]);
        // Each of these leaves a line, and before long more of them have come than may wait.
        let mut round = 0;
        bench.until("losses are counted", || {
            round += 1;
            let bad = (0..4000).map(|number| json!({ "id": format!("x-{round}-{number}") }));
            bench.assign(&std::iter::once(vm.clone()).chain(bad).collect::<Vec<_>>());
            bench.status()["log_lines_dropped"].as_u64() > Some(0)
        });
        assert_eq!(bench.phases(), ["a running"]);
        let reading = std::thread::spawn(move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).expect("text");
            said
        });
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0));
        let said = reading.join().expect("read");
        assert!(said.contains("log lines were dropped"), "{} bytes", said.len());
        // Processes of VMs write to the same pipe, and may end after it.
        let has_last = said.lines().any(|line| line.trim_end().ends_with("ended"));
        assert!(has_last, "the last lines are waited for");
    });
}

#[test]
fn processes_of_vms_write_to_a_log_file_and_cannot_empty_it() {
    isolated(|bench| {
        let [a, b] = ["a", "b"].map(|id| bench.vm(id, &TinyGuest::power_button()));
        bench.assign(&[a, b.clone()]);
        let mut daemon = bench.start();
        let both_run = || bench.phases() == ["a running", "b running"];
        bench.until("they run", both_run);
        let output = format!("/proc/{}/fd/2", host_process_of(&bench, "a"));
        let kind = fs::metadata(&output).expect("it is open").file_type();
        assert!(kind.is_fifo(), "{output} is {kind:?}");
        daemon.kill();
        let _next = bench.start();
        bench.until("they run on", both_run);
        bench.assign(&[b]);
        // Said by the process that an earlier worker started.
        bench.until("the next worker hears it", || bench.log().contains("the machine has ended"));
    });
}

#[test]
fn a_pipe_that_is_never_read_delays_the_end_by_a_moment_only() {
    isolated(|bench| {
        let (_reader, writer) = full_pipe();
        let mut held = Some(writer);
        let mut command = bench.command();
        command.stderr(held.take().expect("once"));
        let mut daemon = bench.start_with(command);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0));
    });
}

#[test]
fn closed_descriptors_are_no_files_of_the_worker() {
    isolated(|bench| {
        let program = bench.program.clone();
        let mut daemon = None;
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        bench.assign(&[a, b]);
        let worker = bench.command();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("exec 0<&- 1>&- 2>&-; exec \"$0\" \"$@\"").arg(program);
        command.args(worker.get_args()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg0("sh");
        let running = daemon.insert(bench.start_with(command));
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        for descriptor in 0..=2 {
            let path = format!("/proc/{}/fd/{descriptor}", running.pid().as_raw_nonzero());
            assert_eq!(fs::read_link(path).expect("open").to_string_lossy(), "/dev/null");
        }
        running.signal(Signal::TERM);
        assert_eq!(running.ended().code(), Some(0));
    });
}

#[test]
fn what_artifacts_say_is_escaped_in_both_forms_and_every_line_of_json_is_json() {
    isolated(|bench| {
        let evil = "x\u{202e}\u{9b}31m\u{1b}[2J\nvm_id=a";
        let mut vm = bench.vm("a", &TinyGuest::power_button());
        vm["store_path"] = format!("/nix/store/{evil}").into();
        bench.assign(&[vm]);
        for format in ["human", "json"] {
            let mut command = bench.command();
            command.arg("--log-format").arg(format);
            // The one before had another file.
            command.stderr(File::create(bench.path("log")).expect("created"));
            let mut daemon = bench.start_with(command);
            bench.until("it is told", || bench.log().contains("31m"));
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.ended().code(), Some(0));
            let log = bench.log();
            let foul =
                |character: char| character != '\n' && (character.is_control() || character == '\u{202e}');
            assert!(!log.contains(foul), "{log:?}");
            assert!(!log.lines().any(|line| line.starts_with("vm_id")), "{log}");
            if format == "json" {
                for line in log.lines() {
                    let parsed: Result<Value, _> = serde_json::from_str(line);
                    assert!(parsed.is_ok(), "{line}");
                }
            }
            fs::remove_dir_all(bench.path("state")).expect("removed");
        }
    });
}

#[test]
fn a_service_manager_is_told_and_one_that_does_not_read_holds_nobody_up() {
    isolated(|bench| {
        let path = bench.path("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        manager.set_read_timeout(Some(crate::bench::DEADLINE)).expect("set");
        let told_next = || {
            let mut message = [0; 256];
            let length = manager.recv(&mut message).expect("in time");
            String::from_utf8_lossy(&message[..length]).into_owned()
        };
        // How the VMs stand is told whenever that changes.
        let told =
            || std::iter::repeat_with(told_next).find(|told| !told.starts_with("STATUS=")).expect("endless");
        let mut command = bench.command();
        command.env("NOTIFY_SOCKET", &path);
        let mut daemon = bench.start_with(command);
        assert_eq!(told(), "READY=1\n");
        daemon.signal(Signal::HUP);
        assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(told(), "READY=1\n");

        let sender = UnixDatagram::unbound().expect("a socket");
        sender.connect(&path).expect("connected");
        sender.set_nonblocking(true).expect("set");
        while sender.send(b"x").is_ok() {}
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_client_whose_reader_has_gone_ends_quietly() {
    isolated(|bench| {
        bench.assign(&[]);
        let _daemon = bench.start();
        bench.until("it is read", || bench.status()["generation"] == 1);
        let client = |arguments: &[&str]| {
            let (reader, writer) = pipe().expect("a pipe");
            drop(reader);
            let mut command = Command::new(&bench.program);
            command.args(arguments).arg("--runtime-dir").arg(bench.path("run")).env_clear();
            command.stdout(writer).output().expect("started")
        };
        for arguments in [&["ls"][..], &["ls", "--json"], &["status"], &["--help"]] {
            let output = client(arguments);
            assert_eq!(output.status.code(), Some(0), "{arguments:?}");
            assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut command = Command::new(&bench.program);
        command.args(["inspect", "nobody", "--runtime-dir"]).arg(bench.path("run")).env_clear();
        command.stderr(File::options().write(true).open("/dev/full").expect("opened"));
        assert_eq!(command.status().expect("started").code(), Some(1), "and not 101");
    });
}

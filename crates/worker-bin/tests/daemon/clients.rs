//! Many clients, and sockets far down.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::Signal;
use tiny_guest::TinyGuest;

use crate::bench::isolated;

#[test]
fn idle_clients_use_up_nothing_that_vms_and_others_need() {
    isolated(|bench| {
        let first: Vec<_> =
            (0..3).map(|number| bench.vm(&format!("a-{number}"), &TinyGuest::power_button())).collect();
        bench.assign(&first);
        let worker = bench.command();
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg("ulimit -n 340; exec \"$0\" \"$@\"")
            .arg(&bench.program)
            .args(worker.get_args());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stderr(fs::File::create(bench.path("log")).expect("created"));
        let mut daemon = bench.start_with(command);
        bench.until("they run", || {
            bench.phases().iter().filter(|phase| phase.ends_with("running")).count() == 3
        });
        assert_eq!(bench.status()["open_files_limit"], 340);
        assert!(bench.log().contains("the limit of open files is low"), "{}", bench.log());

        let socket = bench.path("run/worker.sock");
        let idle: Vec<UnixStream> = (0..400)
            .map(|number| {
                let mut stream = UnixStream::connect(&socket).expect("connected");
                // Half of them have begun to ask. One that was sent away already does not get so far.
                if number % 2 == 0 {
                    let _ = stream.write_all(b"GET /v1/vms HTTP/1.1\r\nhost:");
                }
                stream
            })
            .collect();
        assert!(bench.client(&["ls"]).status.success());
        let open =
            fs::read_dir(format!("/proc/{}/fd", daemon.pid().as_raw_nonzero())).expect("listed").count();
        assert!(open < 250, "{open} descriptors");
        let second = bench.vm("b", &TinyGuest::power_button());
        bench.assign(&[first, vec![second]].concat());
        bench.until("a new one starts meanwhile", || bench.phases().contains(&"b running".to_owned()));
        drop(idle);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_socket_whose_path_is_too_long_for_the_kernel_serves_all_the_same() {
    isolated(|bench| {
        let deep = bench.path(&"d".repeat(150));
        let base = bench.command();
        let mut command = Command::new(&bench.program);
        let arguments = base.get_args().map(|argument| {
            if argument == bench.path("run") { deep.clone().into_os_string() } else { argument.to_owned() }
        });
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let log = fs::File::create(bench.path("log")).expect("created");
        let mut child = command.stderr(log).spawn().expect("started");
        let asked = || {
            let mut client = Command::new(&bench.program);
            client.arg("ls").arg("--runtime-dir").arg(&deep).env_clear().output().expect("started")
        };
        bench.until("it answers", || asked().status.success());
        assert!(bench.log().contains("longer than 107 bytes"), "{}", bench.log());
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).expect("there");
        assert_eq!(child.wait().expect("it is ours").code(), Some(0), "{}", bench.log());
        assert!(!deep.join("worker.sock").exists());
        assert_eq!(asked().status.code(), Some(69));
    });
}

//! `upgrade --check` against workers and host processes that are really there.

use std::fs;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::isolated;
use crate::outliving::host_process_of;

#[test]
fn vms_in_host_processes_survive_and_the_check_changes_nothing() {
    isolated(|bench| {
        assert_eq!(bench.client(&["upgrade", "--check"]).status.code(), Some(69), "nobody answers");
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut stopping = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let output = bench.client(&["upgrade", "--check", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&told[0]["survives"], output.status.code()), (&json!(false), Some(1)), "{told}");
        stopping.signal(Signal::TERM);
        assert_eq!(stopping.ended().code(), Some(0), "{}", bench.log());
        bench.leave_guests();
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let before = bench.vms();
        assert_eq!(bench.client(&["upgrade"]).status.code(), Some(2), "there is no upgrade without --check");

        let output = bench.client(&["upgrade", "--check", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let process = host_process_of(&bench, "a");
        assert_eq!(told[0]["id"], "a");
        assert_eq!((&told[0]["survives"], &told[0]["pid"]), (&json!(true), &json!(process)), "{told}");
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(bench.vms()[0]["started_at"], before[0]["started_at"]);

        // Sockets of others are no VM's.
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        let path = bench.path("run/hosts/mute.sock");
        bind(&socket, &SocketAddrUnix::new(&path).expect("a short path")).expect("bound");
        listen(&socket, 1).expect("listening");
        assert_eq!(bench.client(&["upgrade", "--check"]).status.code(), Some(0));
        fs::remove_file(&path).expect("it was there");
    });
}

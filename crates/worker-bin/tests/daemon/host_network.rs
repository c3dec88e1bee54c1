//! What a worker finds, keeps and gives back of the host's network when it starts and ends.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, host_processes, isolated, links};
use crate::outliving::host_process_of;

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().expect("started");
    assert!(done.success(), "ip {arguments}");
}

fn degradations(bench: &Bench) -> String {
    bench.status()["degradations"].to_string()
}

#[test]
fn a_worker_without_vms_gives_the_host_back_when_it_ends() {
    isolated(|bench| {
        bench.assign(&[]);
        bench.leave_guests();
        for _ in 0..2 {
            let mut daemon = bench.start();
            assert!(links().contains(&"br-procurator".to_owned()), "{:?}", links());
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
            assert_eq!(links(), ["lo"]);
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().expect("started");
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
        assert!(!bench.path("state/host-settings.json").exists());
    });
}

#[test]
fn addresses_of_machines_whose_records_are_lost_are_nobody_elses() {
    isolated(|bench| {
        let [a, c] = ["a", "c"].map(|id| bench.vm(id, &TinyGuest::power_button()));
        bench.assign(std::slice::from_ref(&a));
        bench.leave_guests();
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let address = bench.vms()[0]["address"].clone();
        let process = host_process_of(&bench, "a");
        daemon.kill();
        fs::rename(bench.path("state"), bench.path("state.away")).expect("moved");

        bench.assign(&[c, a]);
        let mut daemon = bench.start();
        bench.until("the other one runs", || bench.phases().contains(&"c running".to_owned()));
        let vms = bench.vms();
        let other = vms.iter().find(|vm| vm["id"] == "c").expect("it is there");
        assert_ne!(other["address"], address, "{}", bench.log());
        let end = format!("`kill {process}` ends it");
        assert!(degradations(&bench).contains(&end), "{}", degradations(&bench));
        bench.until("the VM of its name waits", || {
            let vms = bench.vms();
            let held = vms.iter().find(|vm| vm["id"] == "a").expect("it is there");
            held["reason"]["message"].as_str().is_some_and(|reason| reason.contains(&end))
        });
        assert!(host_processes(&bench).contains(&process));
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert!(links().len() > 2, "the network stays for what runs: {:?}", links());
    });
}

#[test]
fn a_tap_that_was_deleted_while_no_worker_ran_is_told_of_its_vm() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        bench.leave_guests();
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.kill();
        let tap = links().into_iter().find(|link| link.starts_with("pw-")).expect("a TAP");
        ip(&format!("link del {tap}"));
        let _daemon = bench.start();
        bench.until("it is told", || degradations(&bench).contains("a/net0 has no network"));
        let told = String::from_utf8_lossy(&bench.client(&["inspect", "a"]).stdout).into_owned();
        assert!(told.contains("a/net0 has no network"), "{told}");
    });
}

#[test]
fn a_changed_subnet_is_told_of_vms_that_run_and_its_leases_come_back_with_it() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        bench.leave_guests();
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let address = bench.vms()[0]["address"].clone();
        daemon.kill();
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&config.replace("10.78.0.0/24", "10.79.0.0/24"));
        let mut daemon = bench.start();
        bench.until("it is told", || {
            degradations(&bench).contains("an address of the network that was before")
        });
        daemon.kill();
        bench.configure(&config);
        let _daemon = bench.start();
        bench.until("all is well", || degradations(&bench) == "[]");
        assert_eq!(bench.vms()[0]["address"], address);
    });
}

#[test]
fn that_nothing_is_verified_is_told() {
    isolated(|bench| {
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("hash_verification = 'never'\n{config}"));
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        assert!(degradations(&bench).contains("hash_verification is"), "{}", degradations(&bench));
        assert!(bench.log().contains("hash_verification is"), "{}", bench.log());
        let told = String::from_utf8_lossy(&bench.client(&["inspect", "a"]).stdout).into_owned();
        assert!(told.contains("unverified"), "{told}");
    });
}

#[test]
fn a_subnet_and_a_bridge_that_the_host_does_not_let_be_are_complained_of() {
    isolated(|bench| {
        ip("link add lan up type bridge");
        ip("address add 10.78.0.9/24 dev lan");
        let check = |what: &str| {
            let mut command = Command::new(&bench.program);
            command.arg("check-config").arg(bench.path("worker.toml"));
            let told = command.output().expect("started");
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            assert!(told.contains(what), "{told}");
        };
        check(
            "network.subnet = \"10.78.0.0/24\": it is in use on this host: link lan has the address 10.78.0.9/24",
        );
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("{config}bridge = 'lo'\n"));
        check("network.bridge: the link lo is no bridge");
    });
}

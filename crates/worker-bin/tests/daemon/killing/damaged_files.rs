//! Each kind of file of the worker, cut off, emptied, overwritten with garbage or of a later version while it was away, as after
//! a power failure on a disk that lies, or a step back to an older program. It is named, nothing of it is lost, and it costs
//! its own VM at most.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tiny_guest::TinyGuest;

use super::leftovers::findings;
use super::scene::{Placement, Removal, Wanted, assign, configure, converge, entry, mark, marked};
use crate::bench::{Bench, Daemon, entries, host_processes, isolated};

const GARBAGE: &[u8] = &[0xff; 64];
const NEWER: &[u8] = br#"{"version": 999, "unknown": {}}"#;

/// What becomes of a damaged file and of the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// It is kept under another name, and what it said is found out again.
    KeptAside,
    /// What it says is of no use to a worker that starts.
    Nothing,
    /// It is kept under another name, and VM a is left alone.
    VmLeftAlone,
    /// It stays where it is, and VM a is not started.
    VmFails,
}

/// Every kind of file that a worker reads when it starts.
const FILES: [(&str, Cost); 9] = [
    ("worker.json", Cost::KeptAside),
    ("leases.json", Cost::KeptAside),
    ("verified.json", Cost::KeptAside),
    ("host-settings.json", Cost::KeptAside),
    ("vms/a/record.json", Cost::VmLeftAlone),
    ("volumes/a/data/volume.json", Cost::VmFails),
    ("vms/a/lock", Cost::Nothing),
    ("worker.lock", Cost::Nothing),
    ("reserve", Cost::Nothing),
];

fn two_vms(bench: &Bench) -> Wanted {
    let artifact = bench.artifact("image", &TinyGuest::power_button(), &json!({}), "x");
    let vm = |id: &str| (id.to_owned(), (entry(id, &artifact, 1), "running"));
    Wanted::from([vm("a"), vm("b")])
}

/// What a damage makes of a file that holds `whole`.
fn damages(whole: &[u8], cost: Cost) -> Vec<Vec<u8>> {
    let mut damages = vec![Vec::new(), whole[..whole.len() / 2].to_vec(), GARBAGE.to_vec()];
    if cost != Cost::Nothing {
        damages.push(NEWER.to_vec());
    }
    damages
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for name in entries(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// The files beside `path` whose names begin with its own.
fn kept_aside(path: &Path) -> Vec<PathBuf> {
    let directory = path.parent().expect("it is in a directory");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let kept = entries(directory).into_iter().filter(|entry| entry != name && entry.starts_with(name));
    kept.map(|entry| directory.join(entry)).collect()
}

fn check(bench: &Bench, daemon: &Daemon<'_>, wanted: &Wanted, file: &str, cost: Cost, damage: &[u8]) {
    let path = bench.path("state").join(file);
    let when = format!("{file} is {:?}", String::from_utf8_lossy(&damage[..damage.len().min(40)]));
    match cost {
        Cost::Nothing => converge(bench, daemon, Placement::Worker, wanted, &when),
        Cost::KeptAside => bench.until(&when, || {
            // The copy is the only thing that is there and was not wanted.
            let findings = findings(bench, daemon, Placement::Worker, wanted);
            matches!(findings.as_slice(), [one] if one.starts_with("left: ") && one.contains(file))
        }),
        Cost::VmLeftAlone => {
            bench.until(&when, || bench.phases() == ["b running"]);
            assert_eq!(bench.status()["damaged"][0]["id"], "a", "{when}");
        }
        Cost::VmFails => {
            bench.until(&when, || {
                let vms = bench.vms();
                let failure = vms.first().map(|vm| vm["reason"]["message"].to_string());
                failure.is_some_and(|failure| failure.contains("volume.json"))
                    && vms.get(1).is_some_and(|vm| vm["phase"] == "running")
            });
            assert_eq!(fs::read(&path).expect("it is there"), damage, "{when}");
        }
    }
    if matches!(cost, Cost::KeptAside | Cost::VmLeftAlone) {
        let kept = kept_aside(&path);
        assert_eq!(kept.len(), 1, "{when}: {kept:?}");
        assert_eq!(fs::read(&kept[0]).expect("read"), damage, "{when}");
        assert!(bench.log().contains(file), "{when}: it is named");
    }
    assert_eq!(marked(bench, "b", "data"), 2, "{when}");
    if cost != Cost::VmFails {
        assert_eq!(marked(bench, "a", "data"), 1, "{when}");
    }
}

#[test]
fn a_damaged_file_costs_its_own_vm_at_most() {
    isolated(|bench| {
        configure(&bench, Placement::Worker, Removal::AtOnce);
        let wanted = two_vms(&bench);
        assign(&bench, &wanted);
        let mut daemon = bench.start();
        converge(&bench, &daemon, Placement::Worker, &wanted, "whole");
        mark(&bench, "a", "data", 1);
        mark(&bench, "b", "data", 2);
        daemon.kill();
        let (state, whole) = (bench.path("state"), bench.path("whole"));
        copy(&state, &whole);
        for (file, cost) in FILES {
            for damage in damages(&fs::read(whole.join(file)).expect("there is one"), cost) {
                fs::remove_dir_all(&state).expect("removed");
                copy(&whole, &state);
                fs::write(state.join(file), &damage).expect("damaged");
                let mut daemon = bench.start();
                check(&bench, &daemon, &wanted, file, cost, &damage);
                daemon.kill();
            }
        }
    });
}

#[test]
fn what_is_no_socket_of_a_host_process_keeps_nobody_from_running() {
    isolated(|bench| {
        configure(&bench, Placement::HostProcesses, Removal::AtOnce);
        let wanted = two_vms(&bench);
        assign(&bench, &wanted);
        let mut daemon = bench.start();
        converge(&bench, &daemon, Placement::HostProcesses, &wanted, "whole");
        daemon.kill();
        let hosts = bench.path("run/hosts");
        let before = host_processes(&bench);
        // A file, a socket on which nobody listens, a link to nowhere.
        fs::write(hosts.join("file.sock"), GARBAGE).expect("written");
        drop(std::os::unix::net::UnixListener::bind(hosts.join("gone.sock")).expect("bound"));
        std::os::unix::fs::symlink("/nowhere", hosts.join("link.sock")).expect("linked");
        let daemon = bench.start();
        converge(&bench, &daemon, Placement::HostProcesses, &wanted, "with strange entries");
        assert_eq!(host_processes(&bench), before, "the same machines go on");
    });
}

#[test]
fn addresses_of_running_vms_are_not_given_away_although_the_leases_are_lost() {
    isolated(|bench| {
        configure(&bench, Placement::HostProcesses, Removal::AtOnce);
        let mut wanted = two_vms(&bench);
        assign(&bench, &wanted);
        let mut daemon = bench.start();
        converge(&bench, &daemon, Placement::HostProcesses, &wanted, "whole");
        let addresses: Vec<_> = bench.vms().iter().map(|vm| vm["address"].clone()).collect();
        daemon.kill();
        fs::write(bench.path("state/leases.json"), GARBAGE).expect("damaged");
        let (entry_of_a, phase) = wanted["a"].clone();
        let mut third = entry_of_a;
        third["id"] = "c".into();
        wanted.insert("c".to_owned(), (third, phase));
        assign(&bench, &wanted);
        let daemon = bench.start();
        bench.until("the third runs", || bench.phases() == ["a running", "b running", "c running"]);
        let now: Vec<_> = bench.vms().iter().map(|vm| vm["address"].clone()).collect();
        assert_eq!(now[..2], addresses[..]);
        assert!(!addresses.contains(&now[2]), "{now:?}");
        fs::remove_file(bench.path("state/leases.json.kept-1")).expect("it was kept aside");
        converge(&bench, &daemon, Placement::HostProcesses, &wanted, "everybody has an address of their own");
    });
}

//! What is not as wanted, or is there although nobody wants it: VMs, processes, locks, interfaces, addresses, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::scene::{Placement, Wanted};
use crate::bench::{Bench, Daemon, entries, host_processes, links};

const STATE: [&str; 9] = [
    "host-settings.json",
    "leases.json",
    "network.json",
    "reserve",
    "verified.json",
    "vms",
    "volumes",
    "worker.json",
    "worker.lock",
];
const VM_DIRECTORY: [&str; 6] = ["console", "lock", "record.json", "sockets", "volumes", "worker.log"];

/// Everything that is wrong, in words; empty where all is as it should be.
pub(super) fn findings(
    bench: &Bench,
    daemon: &Daemon<'_>,
    placement: Placement,
    wanted: &Wanted,
) -> Vec<String> {
    let mut found = Vec::new();
    let phases: Vec<String> = wanted.iter().map(|(id, (_, phase))| format!("{id} {phase}")).collect();
    let seen = bench.phases();
    if seen != phases {
        // The rest follows from it.
        return vec![format!("VMs are {seen:?} and should be {phases:?}")];
    }
    let up: BTreeSet<&str> =
        wanted.iter().filter(|(_, (_, phase))| *phase != "stopped").map(|(id, _)| id.as_str()).collect();
    processes(bench, daemon, placement, &up, &mut found);
    addresses(bench, wanted, &up, &mut found);
    state_files(bench, wanted, &mut found);
    volume_files(bench, wanted, &mut found);
    found
}

/// Each VM that is up has one process, which holds its lock, and there is no other.
fn processes(
    bench: &Bench,
    daemon: &Daemon<'_>,
    placement: Placement,
    up: &BTreeSet<&str>,
    found: &mut Vec<String>,
) {
    let hosts = host_processes(bench);
    let worker = daemon.pid().as_raw_nonzero().get();
    let mut busy = BTreeSet::new();
    for vm in vm_directories(bench) {
        let lock = bench.path("state/vms").join(&vm).join("lock");
        let has_it_open = |process: &&i32| has_open(**process, &lock);
        let holders: Vec<i32> = hosts.iter().chain([&worker]).filter(has_it_open).copied().collect();
        let is_right = match (up.contains(vm.as_str()), placement, holders.as_slice()) {
            (false, _, []) => true,
            (true, Placement::Worker, [holder]) => *holder == worker,
            (true, Placement::HostProcesses, [holder]) => *holder != worker,
            (_, _, _) => false,
        };
        if !is_right {
            found.push(format!("the lock of {vm} is held by {holders:?}; the worker is {worker}"));
        }
        busy.extend(holders);
    }
    let idle: Vec<&i32> = hosts.iter().filter(|host| !busy.contains(host)).collect();
    if !idle.is_empty() {
        found.push(format!("host processes without a VM: {idle:?}"));
    }
    let hosts_directory = bench.path("run/hosts");
    let mut sockets = if hosts_directory.exists() { entries(&hosts_directory) } else { Vec::new() };
    // What they write standard error to, each of them and the next.
    sockets.retain(|name| name != "standard-error");
    if sockets.len() != hosts.len() {
        found.push(format!("sockets {sockets:?} of host processes {hosts:?}"));
    }
}

fn has_open(process: i32, file: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|open| open == file))
}

/// Each VM that is up has one TAP and an address of its own; nobody else has any.
fn addresses(bench: &Bench, wanted: &Wanted, up: &BTreeSet<&str>, found: &mut Vec<String>) {
    let links = links();
    if links.len() != up.len() + 2 {
        found.push(format!("links {links:?} for VMs {up:?}, a bridge and lo"));
    }
    let leases = read(&bench.path("state/leases.json"));
    let leases = leases["leases"].as_array().cloned().unwrap_or_default();
    let holders: Vec<&str> = leases.iter().filter_map(|lease| lease["vm"].as_str()).collect();
    let distinct: BTreeSet<&str> = leases.iter().filter_map(|lease| lease["address"].as_str()).collect();
    let is_known = |holder: &&str| wanted.contains_key(*holder);
    let have_all = up.iter().all(|vm| holders.contains(vm));
    if !holders.iter().all(is_known) || !have_all || distinct.len() != holders.len() {
        found.push(format!("addresses {distinct:?} of {holders:?}"));
    }
}

/// The state directory has the files of the worker and of wanted VMs, and no other.
fn state_files(bench: &Bench, wanted: &Wanted, found: &mut Vec<String>) {
    let unknown = |directory: &Path, known: &[&str], found: &mut Vec<String>| {
        let names = entries(directory).into_iter().filter(|name| !known.contains(&name.as_str()));
        found.extend(names.map(|name| format!("left: {}", directory.join(name).display())));
    };
    unknown(&bench.path("state"), &STATE, found);
    let ids: Vec<&str> = wanted.keys().map(String::as_str).collect();
    unknown(&bench.path("state/vms"), &ids, found);
    for id in &ids {
        let directory = bench.path("state/vms").join(id);
        if directory.is_dir() {
            unknown(&directory, &VM_DIRECTORY, found);
            if read(&directory.join("record.json"))["rollout"]["stage"] == "on_trial" {
                found.push(format!("the definition of {id} is on trial"));
            }
        } else {
            found.push(format!("{id} has no directory"));
        }
    }
}

/// Volumes are of wanted VMs, and have a record and the contents that it speaks of.
fn volume_files(bench: &Bench, wanted: &Wanted, found: &mut Vec<String>) {
    let volumes = bench.path("state/volumes");
    for vm in entries(&volumes) {
        if !wanted.contains_key(&vm) {
            found.push(format!("left: {}", volumes.join(&vm).display()));
            continue;
        }
        for disk in entries(&volumes.join(&vm)) {
            let directory = volumes.join(&vm).join(disk);
            let record = read(&directory.join("volume.json"));
            let contents = record["contents"].as_object().cloned().unwrap_or_default();
            let mut known: Vec<String> = contents.keys().map(|number| format!("{number}.img")).collect();
            known.push("volume.json".to_owned());
            known.sort();
            let there = entries(&directory);
            if there != known {
                found.push(format!("{} holds {there:?}, its record says {known:?}", directory.display()));
            }
        }
    }
}

fn vm_directories(bench: &Bench) -> Vec<String> {
    let names = entries(&bench.path("state/vms"));
    names.into_iter().filter(|name| !name.starts_with('.')).collect()
}

/// What the file at `path` says; nothing where it is not there.
fn read(path: &Path) -> Value {
    fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

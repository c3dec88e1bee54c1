//! What the program is to do while it is killed: VMs wanted in some phase, in a placement.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_host::Artifact;

use super::leftovers::findings;
use crate::bench::{Bench, DEADLINE, Daemon};

/// Where machines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// In the program itself: they go with it.
    Worker,
    /// In processes of their own, none ahead: they outlive it.
    HostProcesses,
}

/// How long what was removed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    AtOnce,
    Kept,
}

/// Configures the program that is started next.
pub(super) fn configure(bench: &Bench, placement: Placement, removal: Removal) {
    let machines = match placement {
        Placement::Worker => 0,
        Placement::HostProcesses => 1,
    };
    let grace = match removal {
        Removal::AtOnce => 0,
        Removal::Kept => 600,
    };
    bench.configure(&format!(
        "stop_guests = true\nstop_timeout_seconds = 1\nvms_per_host_process = {machines}\nspare_host_processes = 0\n\
         removal_grace_seconds = {grace}\n[network]\nsubnet = '10.78.0.0/24'\n"
    ));
}

/// The VMs that are wanted, by id: the entry that says so, and the phase they are to be in.
pub(super) type Wanted = BTreeMap<String, (Value, &'static str)>;

/// A VM `id` of `artifact`, with a disk of `mebibytes` that outlives images.
pub(super) fn entry(id: &str, artifact: &Artifact, mebibytes: u64) -> Value {
    let disks = json!([{ "id": "data", "size": mebibytes << 20 }]);
    json!({
        "id": id,
        "hash": artifact.hash,
        "store_path": artifact.path,
        "procurator": { "disks": disks },
    })
}

/// Asks for `wanted`, and for nothing else to be there.
pub(super) fn assign(bench: &Bench, wanted: &Wanted) {
    let vms: Vec<&Value> = wanted.values().map(|(entry, _)| entry).collect();
    bench.assign_text(&json!({ "vms": vms, "allow_removals": true }).to_string());
}

/// Waits until everything is as wanted and nothing else is there.
pub(super) fn converge(
    bench: &Bench,
    daemon: &Daemon<'_>,
    placement: Placement,
    wanted: &Wanted,
    when: &str,
) {
    let begun = Instant::now();
    loop {
        let left = findings(bench, daemon, placement, wanted);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{when}: {left:#?}; the log:\n{}", bench.log());
        sleep(Duration::from_millis(20));
    }
}

/// Where the content lies that is in use of a disk.
fn content(bench: &Bench, vm: &str, disk: &str) -> PathBuf {
    let directory = bench.path("state/volumes").join(vm).join(disk);
    let record = fs::read_to_string(directory.join("volume.json")).expect("a volume has a record");
    let record: Value = serde_json::from_str(&record).expect("it is whole");
    directory.join(format!("{}.img", record["current"]))
}

/// Writes `mark` to a disk, as a guest would.
pub(super) fn mark(bench: &Bench, vm: &str, disk: &str, mark: u64) {
    let file = File::options().write(true).open(content(bench, vm, disk)).expect("opened");
    file.write_all_at(&mark.to_le_bytes(), 4096).expect("written");
}

/// What was marked on a disk.
pub(super) fn marked(bench: &Bench, vm: &str, disk: &str) -> u64 {
    let file = File::open(content(bench, vm, disk)).expect("opened");
    let mut mark = [0; 8];
    file.read_exact_at(&mut mark, 4096).expect("read");
    u64::from_le_bytes(mark)
}

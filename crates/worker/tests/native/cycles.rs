//! Many VMs after one another: nothing piles up.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::workbench::{create, isolated, links, until};

/// What this process and its network hold.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    links: Vec<String>,
    leases: usize,
}

impl Held {
    /// It may be less: a thread that was about to end when the other was looked at has ended.
    fn is_no_more_than(&self, other: &Self) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads
            && self.links == other.links
            && self.leases == other.leases
    }
}

fn held(state: &std::path::Path) -> Held {
    let count = |path: &str| fs::read_dir(path).expect("listed").count();
    let leases = fs::read_to_string(state.join("leases.json")).unwrap_or_default();
    Held {
        descriptors: count("/proc/self/fd"),
        threads: count("/proc/self/task"),
        links: links(),
        leases: leases.matches("\"address\"").count(),
    }
}

#[test]
fn two_hundred_vms_leave_nothing_behind() {
    isolated(|bench| {
        let artifact = bench.artifact(
            "image",
            &TinyGuest::power_button(),
            &json!({ "disks": [{ "path": "disk.img" }] }),
        );
        fs::write(artifact.path.join("disk.img"), [0_u8; 4096]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let config = VmManagerConfig { removal_grace: Duration::ZERO, ..bench.config() };
        let manager = VmManager::new(config).expect("starts");
        let state = bench.path().join("state");
        let cycle = |number: u32| {
            let id = VmId::new(&format!("vm-{number}"));
            create(&manager, &id, &artifact).expect("runs");
            manager.remove_vm(&id).expect("goes");
        };
        // What is started on first use is there after the first few.
        (0..5).for_each(cycle);
        let before = held(&state);
        (5..205).for_each(cycle);
        until(&format!("no more is held than before: {before:?}"), || {
            // Looking at all of them drops what is left of those that have ended.
            manager.list_vms().is_empty() && held(&state).is_no_more_than(&before)
        });
        assert_eq!(fs::read_dir(state.join("vms")).expect("listed").count(), 0);
    });
}

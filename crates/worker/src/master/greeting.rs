//! What this host says of itself when a connection to its master begins.

use std::collections::BTreeSet;
use std::fs;
use std::thread::available_parallelism;

use master_protocol::wire::v1::{Capacity, Cpu, Engine, Hello, InForce};
use master_protocol::wire::{List, Text, WorkerId};
use uuid::Uuid;
use vm_model::{Bytes, VMS_MOST};

use super::state::disk_size;
use crate::vms::VmManager;

/// Versions of the protocol that this worker speaks.
const VERSIONS: [u32; 1] = [1];
/// What every engine of ours can do beyond starting and stopping.
const FEATURES: [&str; 4] = ["pause", "health-probes", "volumes", "systemd-readiness"];

/// The greeting of the host that calls itself `worker`.
pub(super) fn hello(vm_manager: &VmManager, worker: WorkerId, host: Option<&str>) -> Hello {
    let vms = vm_manager.list_vms().into_iter();
    // Many VMs may have one artifact.
    let paths: BTreeSet<_> = vms.map(|vm| vm.assignment.store_path).collect();
    let paths = paths.into_iter().filter(|path| path.exists()).map(|path| Text::cut(path.to_string_lossy()));
    Hello {
        versions: List::cut(VERSIONS),
        worker,
        run: Text::cut(run()),
        host: host.map(Text::cut),
        capacity: capacity(vm_manager),
        engine: Engine {
            name: Text::cut("procurator"),
            version: Text::cut(env!("CARGO_PKG_VERSION")),
            features: List::cut(FEATURES.map(Text::cut)),
        },
        cpu: cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        store_paths: List::cut(paths),
        store_paths_complete: false,
        in_force: InForce::of(&vm_manager.node_status().borrow()),
    }
}

/// Tells this run of the program from others.
fn run() -> String {
    static RUN: std::sync::OnceLock<Uuid> = std::sync::OnceLock::new();
    RUN.get_or_init(Uuid::new_v4).to_string()
}

fn capacity(vm_manager: &VmManager) -> Capacity {
    let (memory, assignable) = vm_manager.memory();
    Capacity {
        processors: available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok())
            .unwrap_or(1),
        memory_bytes: memory.map(Bytes::get).unwrap_or_default(),
        memory_assignable_bytes: assignable.map(Bytes::get),
        disk_bytes: disk_size(vm_manager.state_dir()),
        vms: u32::try_from(VMS_MOST).ok(),
    }
}

/// The processor, from the text of `/proc/cpuinfo`.
fn cpu(text: &str) -> Cpu {
    let field = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(key, value)| (key.trim(), value.trim()))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let features = field("flags").unwrap_or_default().split_whitespace();
    Cpu {
        architecture: Text::cut(std::env::consts::ARCH),
        vendor: Text::cut(field("vendor_id").unwrap_or_default()),
        model: Text::cut(field("model name").unwrap_or_default()),
        features: List::cut(features.map(Text::cut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_read_from_the_kernels_list() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t\t: fpu svm\n\nprocessor\t: 1\n";
        let found = cpu(text);
        assert_eq!((found.vendor.as_str(), found.model.as_str()), ("AuthenticAMD", "EPYC"));
        let features = found.features.into_vec();
        assert_eq!(features.iter().map(Text::as_str).collect::<Vec<_>>(), ["fpu", "svm"]);
        assert_eq!(cpu("").features.into_vec().len(), 0);
    }
}

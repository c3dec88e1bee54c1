//! Machines that want more memory together than their host has.

use std::fs;

use serde_json::json;
use tiny_guest::TinyGuest;
use worker::vms::{
    MemoryOvercommit, RestartMode, VmId, VmManager, VmManagerConfig, VmManagerError, VmStatus,
};

use crate::workbench::{await_console, await_vm, create, isolated};

const MIB: u64 = 1 << 20;

/// Bytes of memory of this host that are not set aside as huge pages.
fn ordinary_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("readable");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.map_or(0, |value| value.trim().parse::<u64>().expect("a number") * 1024)
    };
    field("MemTotal:") - field("Hugetlb:")
}

#[test]
fn a_vm_that_does_not_fit_waits_until_another_is_gone() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("the host can run VMs");
        // Its pages are taken as they are touched: none of it is in use.
        let size = (ordinary_memory() - 400 * MIB) / MIB * MIB;
        let large = bench.artifact("large", &TinyGuest::idle(), &json!({ "memory": { "size": size } }));
        let small = bench.artifact("small", &TinyGuest::idle(), &json!({ "memory": { "size": 256 * MIB } }));
        let (first, second) = (VmId::new("first"), VmId::new("second"));
        create(&manager, &first, &large).expect("it fits alone");

        let error = create(&manager, &second, &small).expect_err("both do not fit");
        let VmManagerError::Failed { reason, .. } = error else { panic!("{error}") };
        assert_eq!(reason.kind, vm_model::FailureKind::Host);
        // What its process takes besides is told together with the guest's memory.
        for words in ["the machine takes 26", "MiB are promised already (machines: 1)", "100 % of"] {
            assert!(reason.message.contains(words), "{words:?} is not in {}", reason.message);
        }

        manager.stop_vm(&first).expect("stopped");
        let info = await_vm(&manager, &second, "running", |info| info.status == VmStatus::Running);
        assert!(info.failures > 0 && info.starts == 1, "{info:?}");
        await_console(&manager, &second, "ready\n");
        manager.shutdown().expect("shut down");
    });
}

#[test]
fn a_restart_keeps_what_the_vm_has() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("the host can run VMs");
        let size = (ordinary_memory() - 400 * MIB) / MIB * MIB;
        let large = bench.artifact("large", &TinyGuest::idle(), &json!({ "memory": { "size": size } }));
        let id = VmId::new("large");
        create(&manager, &id, &large).expect("it fits alone");
        manager.restart_vm(&id, RestartMode::Hard).expect("its own memory is there for it");
        let info = await_vm(&manager, &id, "running", |info| info.status == VmStatus::Running);
        assert_eq!((info.starts, info.failures), (2, 0), "{info:?}");
        manager.shutdown().expect("shut down");
    });
}

#[test]
fn without_a_limit_both_run() {
    isolated(|bench| {
        let config = VmManagerConfig { memory_overcommit: MemoryOvercommit::Unlimited, ..bench.config() };
        let manager = VmManager::new(config).expect("the host can run VMs");
        let size = ordinary_memory() / 4 * 3 / MIB * MIB;
        let large = bench.artifact("large", &TinyGuest::idle(), &json!({ "memory": { "size": size } }));
        for id in ["first", "second"] {
            create(&manager, &VmId::new(id), &large).expect("nothing is added up");
        }
        manager.shutdown().expect("shut down");
    });
}

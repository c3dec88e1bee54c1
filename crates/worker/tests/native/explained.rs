//! Failures that explain themselves, and VMs that fail again and again.

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::FailureClass;
use worker::vms::{FailureReason, VmId, VmInfo, VmManager, VmStatus};

use crate::workbench::{Workbench, await_vm, create, isolated};

/// Runs `guest` in a VM whose description says `more`, until it has failed.
fn failure_of(bench: &Workbench, guest: &TinyGuest, more: &serde_json::Value) -> FailureReason {
    let artifact = bench.artifact("image", guest, more);
    let manager = bench.manager();
    let id = VmId::new("failing");
    // The guest may be faster than the call that waits for it to run.
    let _ = create(&manager, &id, &artifact);
    let info = await_vm(&manager, &id, "failed", |info| matches!(info.status, VmStatus::Failed(_)));
    match info.status {
        VmStatus::Failed(reason) => reason,
        other => unreachable!("{other} was not waited for"),
    }
}

#[test]
fn a_kernel_that_finds_no_disk_is_told_to_lack_the_driver() {
    isolated(|bench| {
        let words = "[    0.8] VFS: Cannot open root device \"/dev/vda\" or unknown-block(0,0): error -6\n\
            [    0.8] Please append a correct \"root=\" boot option; here are the available partitions:\n\
            [    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n\
            [    0.9] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\n";
        let reason = failure_of(&bench, &TinyGuest::last_words(words), &json!({}));
        assert_eq!(reason.class, Some(FailureClass::MissingDriver));
        assert!(reason.hint.as_deref().is_some_and(|hint| hint.contains("virtio_blk")), "{reason:?}");
        assert!(reason.message.contains("Cannot open root device"), "{reason}");
        assert_eq!(reason.console_tail.len(), 4);
    });
}

#[test]
fn a_guest_that_ends_without_a_word_is_told_to_be_silent() {
    isolated(|bench| {
        let silent = json!({ "serial": { "mode": "Off" } });
        let reason = failure_of(&bench, &TinyGuest::triple_fault(), &silent);
        assert_eq!(reason.class, Some(FailureClass::NoOutput));
        assert_eq!(reason.message, "the guest triple-faulted before it wrote anything to its console");
    });
}

#[test]
fn a_guest_that_resets_itself_silently_again_and_again_has_failed() {
    isolated(|bench| {
        let silent = json!({ "serial": { "mode": "Off" } });
        let reason = failure_of(&bench, &TinyGuest::acpi_reset(), &silent);
        assert_eq!(reason.class, Some(FailureClass::NoOutput));
        assert!(reason.message.contains("again and again"), "{reason}");
    });
}

#[test]
fn a_guest_that_waits_in_a_shell_runs_and_says_why() {
    isolated(|bench| {
        let words = "Gave up waiting for root file system device.  Common problems:\n\
            ALERT!  /dev/vda9 does not exist.  Dropping to a shell!\n(initramfs) ";
        let artifact = bench.plain("image", &TinyGuest::last_words(words));
        let manager = bench.manager();
        let id = VmId::new("shell");
        create(&manager, &id, &artifact).expect("runs");
        let info = await_vm(&manager, &id, "in trouble", |info| info.boot_trouble.is_some());
        assert_eq!((info.status, info.failures), (VmStatus::Running, 0), "it goes on");
        let trouble = info.boot_trouble.expect("just seen");
        assert_eq!(trouble.class, FailureClass::NoRootDevice);
        assert!(trouble.line.contains("/dev/vda9"), "{trouble:?}");
        manager.stop_vm(&id).expect("stops");
        assert_eq!(manager.get_vm(&id).expect("there").boot_trouble, None, "nobody waits any more");
    });
}

/// Whether VM is between two of its starts.
fn has_failed(info: &VmInfo, times: u32) -> bool {
    info.status == VmStatus::Restarting && info.failures_in_a_row >= times
}

#[test]
fn failures_in_a_row_are_counted_over_workers_and_a_stop_forgets_them() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::triple_fault());
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("looping");
        let _ = create(&manager, &id, &artifact);
        let info = await_vm(&manager, &id, "failing again", |info| has_failed(info, 2));
        assert!(!info.is_crash_looping() && info.next_start_at.is_some(), "{info:?}");
        assert_eq!(info.last_failure.and_then(|reason| reason.class), Some(FailureClass::TripleFault));
        manager.shutdown().expect("ends");
        drop(manager);

        let manager = VmManager::new(bench.config()).expect("starts");
        let info = await_vm(&manager, &id, "known", |info| info.failures_in_a_row >= 2);
        assert!(info.failures_in_a_row < 5, "{info:?}");
        manager.stop_vm(&id).expect("stops");
        await_vm(&manager, &id, "forgiven", |info| info.failures_in_a_row == 0);
        manager.remove_vm(&id).expect("goes");
    });
}

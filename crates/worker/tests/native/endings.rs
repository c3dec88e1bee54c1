//! How guests end by themselves, and what follows.

use std::fs;

use tiny_guest::TinyGuest;
use vm_model::{FailureClass, FailureKind, FailureReason};
use worker::vms::{VmId, VmManager, VmStatus};

use crate::workbench::{await_console, await_vm, console, create, failed_with, isolated, links, ping};

#[test]
fn a_guest_that_switches_itself_off_is_stopped_and_stays_so() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::hello("hello\n"));
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("hello");
        create(&manager, &id, &artifact).expect("runs");
        let info = await_vm(&manager, &id, "off", |info| info.status == VmStatus::Stopped);
        assert_eq!((info.restarts, info.failures), (0, 0));
        assert_eq!(console(&manager, &id), "hello\n");
        assert_eq!(links().iter().filter(|link| link.starts_with("pw-")).count(), 0);
        manager.start_vm(&id).expect("starts once more");
        await_vm(&manager, &id, "off again", |info| info.status == VmStatus::Stopped);
    });
}

/// Why the VM has failed.
fn failure(status: VmStatus) -> FailureReason {
    match status {
        VmStatus::Failed(reason) => reason,
        other => panic!("it is {other}"),
    }
}

#[test]
fn a_triple_fault_is_a_failure_with_the_last_words() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::triple_fault());
        let manager = bench.manager();
        let id = VmId::new("fault");
        // The guest may be faster than the call that waits for it to run.
        let _ = create(&manager, &id, &artifact);
        let info = await_vm(&manager, &id, "failed", |info| failed_with(info, "triple-faulted"));
        assert_eq!(info.failures, 1);
        let reason = failure(info.status);
        assert_eq!(
            (reason.class, reason.console_tail),
            (Some(FailureClass::TripleFault), vec!["ready".to_owned()])
        );
        let timings = reason.timings.expect("it was begun");
        assert!(timings.artifact.is_some() && timings.disks.is_some() && timings.network.is_some());
        assert!(timings.first_entry.is_some() && timings.first_console_byte <= timings.ended, "{timings:?}");
    });
}

#[test]
fn a_failure_is_followed_by_restarts_with_growing_delays() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::triple_fault());
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("fault");
        let _ = create(&manager, &id, &artifact);
        let info = await_vm(&manager, &id, "restarted", |info| info.restarts >= 2);
        assert!(info.last_failure.is_some_and(|reason| reason.message.contains("triple-faulted")));
        manager.remove_vm(&id).expect("a VM that fails again and again can be removed");
    });
}

#[test]
fn a_guest_that_resets_itself_starts_again_and_that_is_no_failure() {
    isolated(|bench| {
        for (name, guest) in [("acpi", TinyGuest::acpi_reset()), ("keyboard", TinyGuest::keyboard_reset())] {
            let artifact = bench.plain(name, &guest);
            let manager = bench.manager();
            let id = VmId::new(name);
            create(&manager, &id, &artifact).expect("runs");
            // The sixth ends the machine, and the next one is launched.
            let info = await_vm(&manager, &id, "reset", |info| info.restarts >= 7);
            assert!(info.resets >= 6 && info.resets < info.restarts, "{info:?}");
            assert_eq!(info.failures, 0);
            manager.remove_vm(&id).expect("goes");
            manager.shutdown().expect("ends");
        }
    });
}

#[test]
fn a_guest_that_resets_itself_keeps_its_machine() {
    isolated(|bench| {
        let more = serde_json::json!({
            "disks": [{ "path": "disk.img" }],
            "net": [{ "ip": "10.77.0.99" }],
            "payload": { "cmdline": "ip=10.77.0.99" },
        });
        let artifact = bench.artifact("image", &TinyGuest::lives_and_network_host(3), &more);
        fs::write(artifact.path.join("disk.img"), [0; 4096]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("reborn");
        create(&manager, &id, &artifact).expect("runs");
        await_console(&manager, &id, "ready");
        assert!(ping("10.77.0.99"), "its interface works after the resets");
        let info = await_vm(&manager, &id, "running", |info| info.status == VmStatus::Running);
        assert_eq!((info.starts, info.restarts, info.resets, info.failures), (4, 3, 3, 0));
        assert_eq!(info.timings.artifact, None, "nobody prepared anything for its newest boot");
        let console = console(&manager, &id);
        assert!((0..4).all(|life| console.contains(&format!("life {life:08x}"))), "{console}");
        let metrics = manager.get_vm_metrics(&id).expect("sampled");
        assert!(metrics.disk_write_bytes <= 4 * 512, "{metrics:?}");
        manager.stop_vm(&id).expect("stops");
        let own = bench.path().join("state/volumes/reborn/disk0/0.img");
        assert_eq!(fs::read(own).expect("there")[..4], 4_u32.to_le_bytes());
    });
}

#[test]
fn a_disk_that_is_fresh_at_each_boot_is_fresh_after_a_reset() {
    isolated(|bench| {
        let more = serde_json::json!({
            "disks": [{ "path": "disk.img", "id": "scratch" }],
            "procurator": { "disks": [{ "id": "scratch", "persistence": "ephemeral" }] },
        });
        let artifact = bench.artifact("image", &TinyGuest::lives(9), &more);
        fs::write(artifact.path.join("disk.img"), [0; 4096]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("scratch");
        create(&manager, &id, &artifact).expect("runs");
        let info = await_vm(&manager, &id, "reset", |info| info.restarts >= 3);
        assert_eq!((info.resets, info.failures), (0, 0));
        assert!(!console(&manager, &id).contains("life 00000001"));
    });
}

#[test]
fn a_kernel_panic_is_told_from_what_the_guest_wrote() {
    isolated(|bench| {
        let words = "[    1.5] Kernel panic - not syncing: no init\n[    1.6] ---[ end Kernel panic - not syncing: no init ]---\n";
        let artifact = bench.plain("image", &TinyGuest::last_words(words));
        let manager = bench.manager();
        let id = VmId::new("panic");
        create(&manager, &id, &artifact).expect("runs");
        let info = await_vm(&manager, &id, "failed", |info| failed_with(info, "panicked and stands still"));
        let reason = failure(info.status);
        assert!(reason.message.ends_with("Kernel panic - not syncing: no init"), "{reason}");
        assert_eq!(reason.class, Some(FailureClass::KernelPanic));
        assert!(reason.console_tail.iter().any(|line| line.contains("no init")));
        assert_eq!(links(), ["br-procurator", "lo"], "nothing runs that stands still");
    });
}

#[test]
fn a_guest_that_goes_astray_failed_by_itself() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::stray(tiny_guest::EVENT_REGISTER_ADDRESS));
        let manager = bench.manager();
        let id = VmId::new("astray");
        // The guest may be faster than the call that waits for it to run.
        let _ = create(&manager, &id, &artifact);
        let info = await_vm(&manager, &id, "failed", |info| {
            failed_with(info, "the guest executed what cannot be carried out")
        });
        let reason = failure(info.status);
        assert_eq!(reason.kind, FailureKind::Guest);
        assert_eq!(reason.class, Some(FailureClass::UnsupportedInstruction));
        assert_eq!(reason.console_tail, ["ready"]);
    });
}

#[test]
fn the_guests_sockets_lie_in_the_vms_directory_and_go_with_it() {
    isolated(|bench| {
        let more = serde_json::json!({ "vsock": { "cid": 5 }, "balloon": { "size": 0 } });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &more);
        let manager = bench.manager();
        let id = VmId::new("sockets");
        create(&manager, &id, &artifact).expect("runs");
        let socket = bench.config().vm_artifacts_dir.join("sockets/sockets/vsock.sock");
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        manager.remove_vm(&id).expect("goes");
        assert!(!socket.exists());
    });
}

#[test]
fn a_reported_panic_ends_the_run_whatever_the_console_says() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::panic("last words\n"));
        let manager = bench.manager();
        let id = VmId::new("panic");
        // The guest may be faster than the call that waits for it to run.
        let _ = create(&manager, &id, &artifact);
        let info = await_vm(&manager, &id, "failed", |info| failed_with(info, "the guest's kernel panicked"));
        let reason = failure(info.status);
        assert_eq!(reason.message, "the guest's kernel panicked");
        assert_eq!(reason.console_tail, ["last words"]);
    });
}

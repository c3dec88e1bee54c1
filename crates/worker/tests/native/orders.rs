//! Orders that come while a VM is busy with another, and managers that go away.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::StopMethod;
use worker::vms::{RestartMode, VmId, VmManager, VmManagerError, VmStatus};

use crate::workbench::{
    Artifact, Workbench, await_console, await_vm, create, isolated, links, mount_small, until,
};

/// Much less than what hashing [`slow`] takes.
const SOON: Duration = Duration::from_secs(20);

/// An artifact that takes minutes to hash.
fn slow(bench: &Workbench) -> Artifact {
    let config = json!({ "disks": [{ "path": "disk.img", "readonly": true }] });
    let artifact = bench.artifact("slow", &TinyGuest::idle(), &config);
    let disk = File::create(artifact.path.join("disk.img")).expect("created");
    disk.set_len(1 << 40).expect("sparse");
    artifact
}

#[test]
fn a_vm_can_be_removed_while_it_is_being_created() {
    isolated(|bench| {
        let (manager, artifact) = (bench.manager(), slow(&bench));
        let id = VmId::new("slow");
        thread::scope(|scope| {
            let creating = scope.spawn(|| create(&manager, &id, &artifact));
            until("it is there", || manager.get_vm(&id).is_ok());
            let begun = Instant::now();
            manager.remove_vm(&id).expect("goes");
            assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
            let outcome = creating.join().expect("no panic");
            let is_told = matches!(
                outcome,
                Err(VmManagerError::NoSuchVm { .. } | VmManagerError::Overtaken { by: "removed", .. })
            );
            assert!(is_told, "{outcome:?}");
        });
        assert_eq!(fs::read_dir(bench.path().join("state/vms")).expect("listed").count(), 0);
    });
}

#[test]
fn a_shutdown_does_not_wait_for_a_creation() {
    isolated(|bench| {
        let (manager, artifact) = (bench.manager(), slow(&bench));
        let id = VmId::new("slow");
        thread::scope(|scope| {
            let creating = scope.spawn(|| create(&manager, &id, &artifact));
            let record = bench.path().join("state/vms/slow/record.json");
            until("it is on record", || record.exists());
            let begun = Instant::now();
            manager.shutdown().expect("ends");
            assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
            assert!(creating.join().expect("no panic").is_err());
        });
        drop(manager);
        assert_eq!(bench.manager().list_vms().len(), 1, "it stays on record");
    });
}

#[test]
fn a_vm_in_a_stop_and_in_a_delay_can_be_removed() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("starts");
        let (deaf, sick) = (VmId::new("deaf"), VmId::new("sick"));
        create(&manager, &deaf, &bench.plain("spin", &TinyGuest::spin())).expect("runs");
        let _ = create(&manager, &sick, &bench.plain("fault", &TinyGuest::triple_fault()));
        await_vm(&manager, &sick, "waiting", |info| info.status == VmStatus::Restarting);
        thread::scope(|scope| {
            let stopping = scope.spawn(|| manager.stop_vm(&deaf));
            await_vm(&manager, &deaf, "stopping", |info| info.status == VmStatus::Stopping);
            manager.remove_vm(&deaf).expect("goes");
            // The call saw the stop or the end of it all.
            let outcome = stopping.join().expect("no panic");
            assert!(matches!(outcome, Ok(_) | Err(VmManagerError::NoSuchVm { .. })), "{outcome:?}");
        });
        manager.remove_vm(&sick).expect("goes");
        assert_eq!(links(), ["br-procurator", "lo"]);
    });
}

#[test]
fn creating_the_same_vm_from_several_places_creates_it_once() {
    isolated(|bench| {
        let (manager, artifact) = (bench.manager(), bench.plain("image", &TinyGuest::idle()));
        let id = VmId::new("once");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| create(&manager, &id, &artifact).expect("runs"));
            }
        });
        assert_eq!(manager.get_vm(&id).expect("there").starts, 1);
    });
}

#[test]
fn a_guest_that_is_off_before_anybody_looks_was_started_all_the_same() {
    isolated(|bench| {
        let (manager, artifact) = (bench.manager(), bench.plain("image", &TinyGuest::hello("x\n")));
        for number in 0..10 {
            let id = VmId::new(&format!("quick-{number}"));
            let begun = Instant::now();
            create(&manager, &id, &artifact).expect("ran");
            assert!(begun.elapsed() < SOON, "the call saw the end only after {:?}", begun.elapsed());
            manager.remove_vm(&id).expect("goes");
        }
    });
}

#[test]
fn what_cannot_be_paused_or_resumed_is_told_at_once() {
    isolated(|bench| {
        let manager = bench.manager();
        let id = VmId::new("off");
        create(&manager, &id, &bench.plain("image", &TinyGuest::hello("x\n"))).expect("ran");
        await_vm(&manager, &id, "off", |info| info.status == VmStatus::Stopped);
        for outcome in [manager.pause_vm(&id), manager.resume_vm(&id)] {
            let error = outcome.expect_err("refused").to_string();
            assert!(error.contains("off is stopped"), "{error}");
        }
    });
}

#[test]
fn a_manager_that_is_dropped_takes_its_machines_with_it_and_another_follows() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::spin());
        let threads =
            || fs::read_dir("/proc/self/task").expect("listed").flatten().filter(is_machine).count();
        let before = threads();
        let manager = bench.manager();
        create(&manager, &VmId::new("a"), &artifact).expect("runs");
        assert!(threads() > before);
        drop(manager);
        until("its machine is gone", || threads() == before);
        until("its TAP is gone", || links() == ["br-procurator", "lo"]);
        let mut next = None;
        until("the state directory is free", || {
            next = VmManager::new(bench.config()).ok();
            next.is_some()
        });
        let next = next.expect("just started");
        next.start_vm(&VmId::new("a")).expect("runs again");
        assert_eq!(next.get_vm(&VmId::new("a")).expect("there").nics[0].address.to_string(), "10.77.0.2");
        next.shutdown().expect("ends");
    });
}

fn is_machine(task: &fs::DirEntry) -> bool {
    let name = fs::read_to_string(Path::new(&task.path()).join("comm")).unwrap_or_default();
    name.starts_with("vm:") || name.starts_with("vcpu") || name.contains("vm-reaper")
}

#[test]
fn a_restart_takes_a_new_machine_and_leaves_the_desired_state() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("starts");
        let (kind, deaf) = (VmId::new("kind"), VmId::new("deaf"));
        create(&manager, &kind, &bench.plain("button", &TinyGuest::power_button())).expect("runs");
        create(&manager, &deaf, &bench.plain("spin", &TinyGuest::spin())).expect("runs");
        manager.restart_vm(&kind, RestartMode::Graceful).expect("runs again");
        let info = manager.get_vm(&kind).expect("there");
        assert_eq!((info.starts, info.failures, info.last_stop), (2, 0, Some(StopMethod::PowerButton)));
        assert!(info.ends.iter().any(|end| end.to_string().contains("(stopped by a command)")), "{info:?}");

        // A hard one does not wait for the guest, also where a graceful one does.
        thread::scope(|scope| {
            let patient = scope.spawn(|| manager.restart_vm(&deaf, RestartMode::Graceful));
            await_vm(&manager, &deaf, "stopping", |info| info.status == VmStatus::Stopping);
            manager.restart_vm(&deaf, RestartMode::Hard).expect("runs again");
            patient.join().expect("no panic").expect("that one is as good");
        });
        await_vm(&manager, &deaf, "killed and running", |info| {
            info.last_stop == Some(StopMethod::Kill) && info.status == VmStatus::Running
        });

        manager.pause_vm(&kind).expect("pauses");
        manager.restart_vm(&kind, RestartMode::Hard).expect("starts");
        await_vm(&manager, &kind, "paused again", |info| info.status == VmStatus::Paused && info.starts == 3);
        assert_eq!(manager.force_stop_vm(&kind).expect("stops"), StopMethod::Kill);
        let refused = manager.restart_vm(&kind, RestartMode::Graceful);
        assert!(matches!(refused, Err(VmManagerError::NotUp { phase: "stopped", .. })), "{refused:?}");
        manager.shutdown().expect("ends");
    });
}

/// What is known before a machine is stopped keeps it from being stopped.
#[test]
fn a_restart_that_could_not_end_well_ends_nothing() {
    isolated(|bench| {
        mount_small(&bench.path().join("state"), 4 << 20);
        let manager = VmManager::new(bench.config()).expect("starts");
        let (id, artifact) = (VmId::new("a"), bench.plain("image", &TinyGuest::idle()));
        create(&manager, &id, &artifact).expect("runs");
        let refusal =
            || vm_model::error_chain(&manager.restart_vm(&id, RestartMode::Hard).expect_err("refused"));

        let kernel = artifact.path.join("vmlinux");
        let (aside, content) = (bench.path().join("aside"), fs::read(&kernel).expect("read"));
        fs::rename(&kernel, &aside).expect("moved away");
        fs::write(&kernel, [&content[..], b"more"].concat()).expect("written");
        let refused = refusal();
        assert!(refused.contains("goes on as it is") && refused.contains("hash"), "{refused}");
        fs::rename(&aside, &kernel).expect("moved back");

        let filler = bench.path().join("state/filler");
        fill(&filler);
        // Nor is what is set aside for records left.
        let reserve =
            fs::OpenOptions::new().write(true).open(bench.path().join("state/reserve")).expect("there");
        reserve.set_len(0).expect("emptied");
        fill(&bench.path().join("state/filler2"));
        let refused = refusal();
        assert!(refused.contains("nothing can be recorded"), "{refused}");
        let info = manager.get_vm(&id).expect("there");
        assert_eq!((info.status, info.starts), (VmStatus::Running, 1));
        fs::remove_file(filler).expect("removed");
        manager.restart_vm(&id, RestartMode::Hard).expect("nothing is in the way");
        manager.shutdown().expect("ends");
    });
}

/// Writes until the disk is full.
fn fill(file: &Path) {
    let mut file = fs::File::create(file).expect("made");
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn a_machines_buttons_and_console_can_be_reached() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("starts");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
        let (echo, button, nmi) = (VmId::new("echo"), VmId::new("button"), VmId::new("nmi"));
        create(&manager, &echo, &bench.plain("echo", &TinyGuest::echo())).expect("runs");
        create(&manager, &button, &bench.plain("button", &TinyGuest::power_button())).expect("runs");
        create(&manager, &nmi, &bench.plain("nmi", &TinyGuest::nmi())).expect("runs");
        let typed = runtime.block_on(manager.write_console_async(&echo, b"hello".to_vec()));
        assert_eq!(typed.expect("typed"), 5);
        await_console(&manager, &echo, "hello");
        runtime.block_on(manager.reset_vm_async(&echo)).expect("resets");
        await_vm(&manager, &echo, "reset in place", |info| info.resets == 1 && info.restarts == 0);
        runtime.block_on(manager.inject_nmi_async(&nmi)).expect("taken");
        runtime.block_on(manager.press_power_button_async(&button)).expect("pressed");
        await_vm(&manager, &button, "off", |info| info.status == VmStatus::Stopped);
        let refused = runtime.block_on(manager.press_power_button_async(&button));
        assert!(matches!(refused, Err(VmManagerError::NotUp { .. })), "{refused:?}");
        manager.shutdown().expect("ends");
    });
}

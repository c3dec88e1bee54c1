//! Volumes: what they are seeded from, how long they stay, and what happens when they are not as they were left.

use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::{Value, json};
use test_host::FreezableFileSystem;
use tiny_guest::TinyGuest;
use vm_model::{
    Assignment, AssignmentSet, Bytes, DesiredState, FailureKind, Generation, HoldReason, Lineage, Source,
    VolumeKeep, VolumePolicy,
};
use worker::node::RemovalLimit;
use worker::vms::{
    KeptSelection, RestartMode, VmId, VmInfo, VmManager, VmManagerConfig, VmStatus, VolumeInfo,
};

use crate::told::{Told, assigned};
use crate::workbench::{Artifact, Workbench, await_console, await_vm, create, isolated, mount_small, until};

/// An artifact whose guest counts its boots on the disk `data`.
fn counting(bench: &Workbench, name: &str, disks: Value, settings: Value) -> Artifact {
    let config = json!({ "disks": disks, "procurator": { "disks": settings } });
    let artifact = bench.artifact(name, &TinyGuest::lives_and_idle(0), &config);
    fs::write(artifact.path.join("disk.img"), vec![0; 64 << 10]).expect("written");
    bench.hashed(artifact.path)
}

fn image_disk(bench: &Workbench, name: &str) -> Artifact {
    counting(bench, name, json!([{ "path": "disk.img", "id": "data" }]), json!([]))
}

fn vm() -> VmId {
    VmId::new("vm")
}

fn volume_file(bench: &Workbench, number: u64) -> PathBuf {
    bench.path().join(format!("state/volumes/vm/data/{number}.img"))
}

fn volumes(manager: &VmManager) -> Vec<VolumeInfo> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
    runtime.block_on(manager.list_volumes_async()).expect("listed")
}

fn delete(manager: &VmManager, which: KeptSelection) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
    let shown = runtime.block_on(manager.show_kept_async(which.clone())).expect("shown");
    let deleted = runtime.block_on(manager.delete_kept_async(which)).expect("deleted");
    assert_eq!(shown.deleted, deleted.deleted, "{shown:?} {deleted:?}");
    assert_eq!(shown.set_aside.len(), deleted.set_aside.len(), "{shown:?} {deleted:?}");
    [deleted.deleted, deleted.set_aside].concat()
}

fn await_life(manager: &VmManager, count: u32) {
    await_console(manager, &vm(), &format!("life {count:08x}"));
    // The count has been written.
    await_console(manager, &vm(), "ready");
}

fn reason(info: &VmInfo) -> (FailureKind, String) {
    let reason = info.last_failure.as_ref().expect("it failed");
    (reason.kind, reason.message.clone())
}

#[test]
fn a_disk_given_by_size_is_blank_once_and_outlives_images() {
    isolated(|bench| {
        let sized = json!([{ "id": "data", "size": 1 << 20 }]);
        let (one, two) = (counting(&bench, "one", json!([]), sized.clone()), {
            let artifact = counting(&bench, "two", json!([]), sized);
            fs::write(artifact.path.join("more"), "x").expect("written");
            bench.hashed(artifact.path)
        });
        fs::remove_file(one.path.join("disk.img")).expect("removed");
        fs::remove_file(two.path.join("disk.img")).expect("removed");
        let (one, two) = (bench.hashed(one.path), bench.hashed(two.path));
        let manager = bench.manager();
        create(&manager, &vm(), &one).expect("runs");
        await_life(&manager, 0);
        let listed = volumes(&manager);
        assert_eq!((listed[0].policy, listed[0].size), (Some(VolumePolicy::Persistent), Bytes::new(1 << 20)));
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &two).expect("runs");
        await_life(&manager, 1);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_volume_grows_on_request_and_keeps_its_content() {
    isolated(|bench| {
        let manager = bench.manager();
        create(&manager, &vm(), &image_disk(&bench, "one")).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        let larger = json!([{ "id": "data", "size": 1 << 20 }]);
        let artifact = counting(&bench, "two", json!([{ "path": "disk.img", "id": "data" }]), larger);
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 1);
        assert_eq!(fs::metadata(volume_file(&bench, 0)).expect("there").len(), 1 << 20);
        assert_eq!(
            manager.get_vm(&vm()).expect("there").machine.expect("known").disks[0].size.get(),
            1 << 20
        );
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_volume_that_is_not_as_it_was_left_fails_its_vm_and_is_not_remade() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.stop_vm(&vm()).expect("stops");
        let file = volume_file(&bench, 0);
        let whole = fs::read(&file).expect("read");

        fs::write(&file, &whole[..32 << 10]).expect("truncated");
        manager.start_vm(&vm()).expect_err("refused");
        let (kind, message) = reason(&manager.get_vm(&vm()).expect("there"));
        assert_eq!(kind, FailureKind::Disk);
        assert!(
            message.contains("vm/data") && message.contains("32768") && message.contains("65536"),
            "{message}"
        );

        fs::remove_file(&file).expect("removed");
        manager.start_vm(&vm()).expect_err("refused");
        let (kind, message) = reason(&manager.get_vm(&vm()).expect("there"));
        assert!(kind == FailureKind::Disk && message.contains("missing"), "{message}");
        assert!(!file.exists(), "it is not remade");

        fs::write(&file, &whole).expect("put back");
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        manager.stop_vm(&vm()).expect("stops");
        assert_eq!(delete(&manager, KeptSelection::Volume(vm(), "data".into())), Vec::<String>::new());
        assert!(file.exists(), "one that can be used is not deleted");

        fs::remove_file(&file).expect("removed");
        let done = delete(&manager, KeptSelection::Volume(vm(), "data".into()));
        assert!(done[0].contains("the next start makes it anew"), "{done:?}");
        manager.start_vm(&vm()).expect("made anew by word");
        await_life(&manager, 0);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_damaged_record_of_a_volume_fails_its_vm_and_leaves_everything_where_it_is() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.stop_vm(&vm()).expect("stops");
        let record = bench.path().join("state/volumes/vm/data/volume.json");
        let whole = fs::read(&record).expect("read");
        for content in [&b"{ damaged"[..], br#"{"version": 99}"#] {
            fs::write(&record, content).expect("damaged");
            manager.start_vm(&vm()).expect_err("refused");
            let (kind, message) = reason(&manager.get_vm(&vm()).expect("there"));
            assert!(kind == FailureKind::Disk && message.contains("volume.json"), "{message}");
            assert_eq!(fs::read(&record).expect("there"), content);
        }
        fs::remove_file(&record).expect("removed");
        manager.start_vm(&vm()).expect_err("refused");
        assert_eq!(reason(&manager.get_vm(&vm()).expect("there")).0, FailureKind::Disk);
        fs::write(&record, whole).expect("put back");
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn what_was_removed_goes_when_its_time_is_over_or_by_word() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let config = VmManagerConfig { removal_grace: Duration::from_secs(2), ..bench.config() };
        let manager = VmManager::new(config).expect("starts");
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        assert!(matches!(volumes(&manager)[0].keep, VolumeKeep::Removed { .. }));
        until("its time is over", || volumes(&manager).is_empty());
        until("its record goes, too", || {
            fs::read_dir(bench.path().join("state/vms")).expect("listed").count() == 0
        });
        assert_eq!(manager.list_removed_vms(), []);
        manager.shutdown().expect("ends");
        drop(manager);

        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        assert_eq!(delete(&manager, KeptSelection::Vm(VmId::new("other"))).len(), 0);
        assert_eq!(delete(&manager, KeptSelection::All), ["volumes of vm, which was removed"]);
        assert_eq!(volumes(&manager), []);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn what_is_kept_goes_for_want_of_space_oldest_first() {
    isolated(|bench| {
        mount_small(&bench.path().join("state"), 24 << 20);
        let filled = |name: &str, byte: u8| {
            let artifact = counting(&bench, name, json!([{ "path": "disk.img", "id": "data" }]), json!([]));
            let mut image = vec![byte; 6 << 20];
            image[..4096].fill(0);
            fs::write(artifact.path.join("disk.img"), image).expect("written");
            bench.hashed(artifact.path)
        };
        let manager = bench.manager();
        for (name, byte) in [("one", 1), ("two", 2)] {
            let id = VmId::new(name);
            create(&manager, &id, &filled(name, byte)).expect("runs");
            await_console(&manager, &id, "ready");
            manager.remove_vm(&id).expect("goes");
            // Their times are told apart by milliseconds.
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(manager.list_removed_vms().len(), 2);
        for (name, byte) in [("three", 3), ("four", 4)] {
            create(&manager, &VmId::new(name), &filled(name, byte)).expect("there is room for it");
        }
        let kept: Vec<_> = manager.list_removed_vms().into_iter().map(|vm| vm.assignment.id).collect();
        assert_eq!(kept, [VmId::new("two")], "the one that was removed first has gone");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_disk_of_a_worker_before_volumes_is_taken_over() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.shutdown().expect("ends");
        drop(manager);
        // As it lay there before: beside the record.
        let old = bench.path().join("state/vms/vm/disk0.img");
        fs::rename(volume_file(&bench, 0), &old).expect("moved");
        fs::remove_dir_all(bench.path().join("state/volumes/vm")).expect("removed");
        let manager = bench.manager();
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        assert!(!old.exists() && volume_file(&bench, 0).exists());
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_disk_that_the_description_no_longer_has_is_kept_and_comes_back() {
    isolated(|bench| {
        let both = json!([{ "path": "disk.img", "id": "data" }, { "path": "disk.img", "id": "more" }]);
        let (with, without) = (counting(&bench, "with", both, json!([])), image_disk(&bench, "without"));
        let manager = bench.manager();
        create(&manager, &vm(), &with).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &without).expect("runs");
        await_life(&manager, 1);
        let of_more = |manager: &VmManager| {
            volumes(manager).into_iter().find(|volume| volume.disk == "more").expect("kept").keep
        };
        until("it is marked", || matches!(of_more(&manager), VolumeKeep::Unused { until: Some(_) }));
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &with).expect("runs");
        await_life(&manager, 2);
        until("it is in use again", || of_more(&manager) == VolumeKeep::InUse);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_guest_that_never_ran_leaves_no_volume() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        fs::write(artifact.path.join("vmlinux"), [9; 9000]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect_err("no kernel");
        await_vm(&manager, &vm(), "failed", |info| matches!(info.status, VmStatus::Failed(_)));
        assert_eq!(volumes(&manager), []);
        manager.remove_vm(&vm()).expect("goes");
        assert_eq!(manager.list_removed_vms(), []);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_volume_that_is_gone_with_its_directory_is_not_remade() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.stop_vm(&vm()).expect("stops");
        let (all, away) = (bench.path().join("state/volumes"), bench.path().join("away"));
        let refused = |what: &str| {
            manager.start_vm(&vm()).expect_err(what);
            let (kind, message) = reason(&manager.get_vm(&vm()).expect("there"));
            assert!(kind == FailureKind::Disk && message.contains("is missing"), "{what}: {message}");
        };
        // As when their file system is not mounted, and when a directory was deleted.
        for gone in [all.clone(), all.join("vm"), all.join("vm/data")] {
            fs::rename(&gone, &away).expect("moved");
            refused("without it");
            let _ = fs::remove_dir_all(&gone);
            fs::rename(&away, &gone).expect("moved back");
        }
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        manager.stop_vm(&vm()).expect("stops");
        fs::remove_dir_all(all.join("vm")).expect("removed");
        refused("for good");
        let done = delete(&manager, KeptSelection::Volume(vm(), "data".into()));
        assert_eq!(done, ["volume vm/data, of which nothing is left; the next start makes it anew"]);
        manager.start_vm(&vm()).expect("by word");
        await_life(&manager, 0);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn what_cannot_be_used_is_set_aside_by_word_and_kept() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.stop_vm(&vm()).expect("stops");
        fs::File::options()
            .write(true)
            .open(volume_file(&bench, 0))
            .expect("opened")
            .set_len(1 << 20)
            .expect("grown");
        manager.start_vm(&vm()).expect_err("it is longer than it was left");
        let done = delete(&manager, KeptSelection::Volume(vm(), "data".into()));
        assert!(done.len() == 1 && done[0].contains("content 0; the next start makes it anew"), "{done:?}");
        assert!(volume_file(&bench, 0).exists(), "nothing is deleted");
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 0);
        assert!(volumes(&manager).iter().any(|volume| {
            volume.number == 0 && matches!(volume.keep, VolumeKeep::Replaced { until: Some(_) })
        }));
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_disk_that_becomes_ephemeral_keeps_its_old_content_for_a_while() {
    isolated(|bench| {
        let disk = json!([{ "path": "disk.img", "id": "data" }]);
        let kept = counting(&bench, "kept", disk.clone(), json!([]));
        let fresh = counting(&bench, "fresh", disk, json!([{ "id": "data", "persistence": "ephemeral" }]));
        let manager = bench.manager();
        create(&manager, &vm(), &kept).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &fresh).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &kept).expect("runs");
        await_life(&manager, 1);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_disk_that_becomes_persistent_again_goes_back_to_its_old_content() {
    isolated(|bench| {
        let image = |name: &str, persistence: &str| {
            let disk = json!([{ "path": "disk.img", "id": "data" }]);
            counting(&bench, name, disk, json!([{ "id": "data", "persistence": persistence }]))
        };
        let (kept, fresh) = (image("kept", "persistent"), image("fresh", "ephemeral"));
        let manager = bench.manager();
        for (image, lives) in [(&kept, 0), (&fresh, 0), (&fresh, 0), (&kept, 1), (&kept, 2)] {
            create(&manager, &vm(), image).expect("runs");
            await_life(&manager, lives);
            manager.remove_vm(&vm()).expect("goes");
        }
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_content_that_was_deleted_since_it_was_made_ready_is_not_replaced_by_a_new_one() {
    isolated(|bench| {
        let (one, two) = (image_disk(&bench, "one"), image_disk(&bench, "two"));
        let mut image = vec![0; 64 << 10];
        image[4096] = 9;
        fs::write(two.path.join("disk.img"), image).expect("written");
        let two = bench.hashed(two.path);
        let manager = bench.manager();
        create(&manager, &vm(), &one).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &two).expect("runs");
        await_life(&manager, 0);
        manager.stop_vm(&vm()).expect("stops");
        // The record speaks of a content that is not there any more, as after a deletion that came in between.
        let record = bench.path().join("state/volumes/vm/data/volume.json");
        let text = fs::read_to_string(&record).expect("read");
        fs::write(&record, text.replace("\"current\": 1", "\"current\": 7")).expect("written");
        manager.start_vm(&vm()).expect_err("refused");
        assert_eq!(reason(&manager.get_vm(&vm()).expect("there")).0, FailureKind::Disk);
        fs::write(&record, text).expect("written");
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn what_a_killed_worker_left_half_made_is_swept_away() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.shutdown().expect("ends");
        drop(manager);
        let directory = bench.path().join("state/volumes/vm/data");
        let (staged, orphan) = (directory.join("1.staged"), directory.join("5.img"));
        fs::write(&staged, "half").expect("written");
        fs::write(&orphan, "its deletion was cut short").expect("written");
        let manager = bench.manager();
        assert!(!staged.exists() && !orphan.exists());
        manager.start_vm(&vm()).expect("runs");
        await_life(&manager, 1);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_size_that_cannot_be_had_is_refused_while_the_vm_runs() {
    isolated(|bench| {
        let disk = json!([{ "path": "disk.img", "id": "data" }]);
        let artifact = counting(&bench, "image", disk, json!([]));
        // Its files have a few terabytes at most.
        let small = FreezableFileSystem::mount_in(bench.path());
        let vms = bench.path().join("mounted/state/vms");
        let config = VmManagerConfig { auto_restart: false, vm_artifacts_dir: vms, ..bench.config() };
        let node = Told::start(VmManager::new(config).expect("starts"));
        let wanted = assigned("vm", &artifact, DesiredState::Running);
        node.tell(None, vec![wanted.clone()]).expect("taken");
        await_life(&node.manager, 0);
        // As much as an assignment may ask for.
        let mut huge = wanted.clone();
        huge.procurator =
            json!({ "disks": [{ "id": "data", "size": 1_u64 << 46 }] }).as_object().expect("one").clone();
        node.tell(None, vec![huge]).expect("taken");
        let info = await_vm(&node.manager, &vm(), "refused", |info| {
            info.wanted.as_ref().is_some_and(|change| change.refusal.is_some())
        });
        let refusal = info.wanted.and_then(|change| change.refusal).expect("it was just seen");
        assert!(refusal.message.contains("cannot grow"), "{refusal}");
        assert_eq!((info.status, info.starts), (VmStatus::Running, 1));
        node.tell(None, vec![wanted]).expect("taken");
        await_vm(&node.manager, &vm(), "running", |info| {
            info.status == VmStatus::Running && info.wanted.is_none()
        });
        node.end().shutdown().expect("ends");
        drop(small);
    });
}

#[test]
fn a_vm_is_not_stopped_before_its_disk_answers_and_says_so_while_others_are() {
    isolated(|bench| {
        let answering = FreezableFileSystem::mount_in(bench.path());
        let volumes = bench.path().join("state/volumes");
        fs::create_dir_all(&volumes).expect("created");
        mount_bind(bench.path().join("mounted"), &volumes).expect("mounted");
        let disk = json!({ "disks": [{ "path": "disk.img", "id": "data" }] });
        let writing = bench.artifact("writing", &TinyGuest::churn(), &disk);
        fs::write(writing.path.join("disk.img"), vec![0; 1 << 20]).expect("written");
        let (writing, plain) = (bench.hashed(writing.path), bench.plain("plain", &TinyGuest::echo()));
        let wanted = |of_writing, of_plain| {
            vec![assigned("vm", &writing, of_writing), assigned("plain", &plain, of_plain)]
        };
        let node = Told::start(bench.manager());
        let (stopped, running, other) = (DesiredState::Stopped, DesiredState::Running, VmId::new("plain"));
        node.tell(None, wanted(running, running)).expect("taken");
        await_console(&node.manager, &vm(), "ready");
        await_console(&node.manager, &other, "ready");
        answering.freeze();
        // It may be within a read at this moment, and goes on to its next write.
        std::thread::sleep(Duration::from_millis(100));

        node.tell(None, wanted(stopped, stopped)).expect("taken");
        let is_stopped = |info: &VmInfo| info.status == VmStatus::Stopped;
        await_vm(&node.manager, &other, "stopped", is_stopped);
        let hangs = "the host does not end the I/O that is in flight on its disk data";
        let told = await_vm(&node.manager, &vm(), "held up", |info| {
            info.last_failure.as_ref().is_some_and(|reason| reason.message.contains(hangs))
        });
        assert_eq!((told.status.clone(), reason(&told).0), (VmStatus::Stopping, FailureKind::Host));
        // Nor is it started again.
        node.tell(None, wanted(running, running)).expect("taken");
        await_vm(&node.manager, &other, "running", |info| info.status == VmStatus::Running);
        assert_eq!(node.manager.get_vm(&vm()).expect("there").starts, 1);

        answering.thaw();
        let is_back = |info: &VmInfo| info.starts == 2 && info.status == VmStatus::Running;
        await_vm(&node.manager, &vm(), "running", is_back);
        node.end().shutdown().expect("ends");
        drop(answering);
    });
}

#[test]
fn one_disk_of_a_removed_vm_is_deleted_by_word_and_the_others_stay() {
    isolated(|bench| {
        let both = json!([{ "path": "disk.img", "id": "data" }, { "path": "disk.img", "id": "more" }]);
        let artifact = counting(&bench, "both", both, json!([]));
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        let of = |disk: &str| KeptSelection::Volume(vm(), disk.into());
        assert_eq!(delete(&manager, of("more")), Vec::<String>::new(), "it is in use");
        manager.remove_vm(&vm()).expect("goes");
        assert_eq!(delete(&manager, of("other")), Vec::<String>::new());
        assert_eq!(delete(&manager, of("more")), ["volume vm/more of vm, which was removed"]);
        assert_eq!(manager.list_removed_vms().len(), 1);
        let left: Vec<String> = volumes(&manager).into_iter().map(|volume| volume.disk).collect();
        assert_eq!(left, ["data"]);
        create(&manager, &vm(), &artifact).expect("comes back, and the other disk is made anew");
        await_life(&manager, 1);
        manager.remove_vm(&vm()).expect("goes");
        assert_eq!(delete(&manager, of("data")).len(), 1);
        // With the last one the VM could not come back: whoever wants that names the VM.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
        for refused in [
            runtime.block_on(manager.show_kept_async(of("more"))),
            runtime.block_on(manager.delete_kept_async(of("more"))),
        ] {
            let told = refused.expect_err("the last one").to_string();
            assert!(told.contains("`undelete` could not bring vm back; `gc vm` deletes all"), "{told}");
        }
        assert_eq!(manager.list_removed_vms().len(), 1);
        assert_eq!(delete(&manager, KeptSelection::Vm(vm())).len(), 1);
        assert_eq!((manager.list_removed_vms(), volumes(&manager)), (Vec::new(), Vec::new()));
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_volume_that_cannot_be_used_is_listed_with_the_reason() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        assert_eq!(volumes(&manager)[0].problem, None);
        manager.stop_vm(&vm()).expect("stops");
        fs::write(bench.path().join("state/volumes/vm/data/volume.json"), "{ damaged").expect("damaged");
        let listed = volumes(&manager);
        assert_eq!((listed.len(), listed[0].keep), (1, VolumeKeep::Unknown));
        assert!(listed[0].problem.as_ref().is_some_and(|problem| problem.contains("damaged")), "{listed:?}");
        manager.shutdown().expect("ends");
    });
}

/// VM `id` of `artifact` with these settings of its disk `data`.
fn with_data(id: &str, artifact: &Artifact, settings: Value) -> Assignment {
    let mut wanted = assigned(id, artifact, DesiredState::Running);
    let mut disk = json!({ "id": "data" });
    disk.as_object_mut().expect("one").extend(settings.as_object().expect("one").clone());
    wanted.procurator = json!({ "disks": [disk] }).as_object().expect("one").clone();
    wanted
}

fn master(epoch: &str) -> Source {
    Source::Master(Lineage::new("m1", epoch).expect("fine"))
}

fn set(generation: u64, vms: Vec<Assignment>) -> AssignmentSet {
    AssignmentSet { generation: Some(Generation::new(generation)), vms, ..AssignmentSet::default() }
}

#[test]
fn an_edit_that_gives_up_what_guests_wrote_waits_like_a_removal() {
    isolated(|bench| {
        let limit = RemovalLimit::AnHour(NonZeroU32::MIN);
        let config = VmManagerConfig { auto_restart: false, removal_limit: limit, ..bench.config() };
        let node = Told::start(VmManager::new(config).expect("starts"));
        let image = image_disk(&bench, "image");
        let vms = |settings: Value| ["a", "b"].map(|id| with_data(id, &image, settings.clone())).to_vec();
        node.assign_from(master("1"), set(1, vms(json!({ "persistence": "persistent" })))).expect("taken");
        for id in ["a", "b"] {
            await_console(&node.manager, &VmId::new(id), "ready");
        }
        let ephemeral = vms(json!({ "persistence": "ephemeral" }));
        let preview = node.preview_from(master("1"), set(2, ephemeral.clone()));
        let words = preview.actions[0].to_string();
        assert!(
            words.contains("(data fresh, from now on at each start; what was written to it stays for 24 h)"),
            "{words}"
        );
        let held = preview.held.expect("both would lose it").reason;
        assert!(held.contains("or lose what was written to a/data, b/data"), "{held}");
        let verdict = node.assign_from(master("1"), set(2, ephemeral)).expect("answered");
        assert_eq!(verdict.held.map(|held| held.removals), Some(2));
        let starts = |id: &str| node.manager.get_vm(&VmId::new(id)).expect("there").starts;
        assert_eq!((starts("a"), starts("b")), (1, 1), "they run on");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn accepting_a_master_says_the_same_of_disks_before_and_when_it_is_done() {
    isolated(|bench| {
        let node = Told::start(bench.manager());
        let image = image_disk(&bench, "image");
        let kept = with_data("vm", &image, json!({ "persistence": "persistent" }));
        node.assign_from(master("1"), set(1, vec![kept, with_data("gone", &image, json!({}))]))
            .expect("taken");
        await_life(&node.manager, 0);
        await_console(&node.manager, &VmId::new("gone"), "ready");
        let fresh = with_data("vm", &image, json!({ "persistence": "ephemeral" }));
        assert!(node.assign_from(master("2"), set(1, vec![fresh])).expect("answered").held.is_some());
        let shown = node.show_held(HoldReason::Lineage).expect("one waits");
        let shown: Vec<String> = shown.actions.iter().map(ToString::to_string).collect();
        let done = node.accept_master().expect("one waits").outcomes;
        let done: Vec<String> = done.into_iter().map(|outcome| outcome.action).collect();
        assert_eq!(shown, done);
        assert!(done[0].contains("gone/data") && done[1].contains("what was written to it"), "{done:?}");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_smaller_size_is_refused_while_the_vm_runs() {
    isolated(|bench| {
        let node = Told::start(bench.manager());
        let image = image_disk(&bench, "image");
        node.tell(None, vec![with_data("vm", &image, json!({ "size": 1 << 20 }))]).expect("taken");
        await_life(&node.manager, 0);
        let smaller = with_data("vm", &image, json!({ "size": 1 << 19 }));
        let plan = node.plan(vec![smaller.clone()]);
        assert!(
            plan[0].starts_with("keep vm as it is") && plan[0].contains("disks do not shrink"),
            "{plan:?}"
        );
        node.tell(None, vec![smaller]).expect("taken");
        let info = await_vm(&node.manager, &vm(), "refused", |info| {
            info.wanted.as_ref().is_some_and(|change| change.refusal.is_some())
        });
        let refusal = info.wanted.and_then(|change| change.refusal).expect("it was just seen");
        assert!(refusal.message.contains("disk data of vm has 1 MiB"), "{refusal}");
        assert_eq!((info.status, info.starts), (VmStatus::Running, 1));
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_plan_says_that_there_is_no_space_or_too_much_asked_for() {
    isolated(|bench| {
        let image = image_disk(&bench, "image");
        fs::write(image.path.join("disk.img"), vec![1; 4 << 20]).expect("written");
        let image = bench.hashed(image.path);
        mount_small(&bench.path().join("state"), 2 << 20);
        let node = Told::start(bench.manager());
        let notes = node.preview(vec![with_data("vm", &image, json!({}))]).notes;
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("vm would not start: ") && note.contains("No space left")),
            "{notes:?}"
        );
        let small = image_disk(&bench, "small");
        let vm = |size: u64| vec![with_data("vm", &small, json!({ "size": size }))];
        node.tell(None, vm(1 << 20)).expect("taken");
        await_life(&node.manager, 0);
        let plan = node.plan(vm(1 << 40));
        assert!(plan[0].contains("more than its whole file system has"), "{plan:?}");
        let filler = bench.path().join("state/filler");
        let mut file = fs::File::create(&filler).expect("created");
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok() {}
        let plan = node.plan(vm(3 << 19));
        assert!(plan[0].contains("although its file system has only"), "{plan:?}");
        fs::remove_file(&filler).expect("removed");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_deletion_whose_disk_hangs_keeps_no_worker_from_starting() {
    isolated(|bench| {
        let left = bench.path().join("state/volumes/.removed.x/data");
        fs::create_dir_all(&left).expect("made");
        let disk = FreezableFileSystem::mount_in(&left);
        drop(disk.file("0.img", 4096));
        disk.freeze();
        let manager = bench.manager();
        create(&manager, &vm(), &bench.plain("image", &TinyGuest::idle())).expect("it is no VM of that disk");
        let content = left.join("mounted/0.img");
        assert!(content.exists());
        disk.thaw();
        until("it goes on", || !content.exists());
        manager.shutdown().expect("ends");
    });
}

/// Has the removed VM deleted, of which a part is mounted and cannot be: answers where that is.
async fn begin_a_deletion_that_fails(bench: &Workbench, manager: &VmManager) -> PathBuf {
    let volumes = bench.path().join("state/volumes");
    mount_small(&volumes.join("vm/data/mounted"), 1 << 20);
    let deleted = manager.delete_kept_async(KeptSelection::Vm(vm())).await;
    deleted.expect_err("a part of it is in the way");
    volumes.join(".removed.vm/data/mounted")
}

#[test]
fn a_vm_that_waits_for_a_deletion_of_its_own_name_says_so() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
        let in_the_way = runtime.block_on(begin_a_deletion_that_fails(&bench, &manager));
        assert!(manager.is_being_deleted(&vm()));
        let told = runtime.block_on(manager.list_volumes_async()).expect("listed");
        let problem = told.iter().find_map(|volume| volume.problem.as_deref()).unwrap_or_default();
        assert!(told.is_empty() || problem.contains("does not come back"), "{told:?}");
        let refused = create(&manager, &vm(), &artifact).expect_err("it waits").to_string();
        assert!(refused.contains("what is left of the removed VM of its name"), "{refused}");
        let info = manager.get_vm(&vm()).expect("it is there");
        assert_eq!((info.status, info.failures), (VmStatus::Restarting, 1));
        assert!(info.next_start_at.is_some());
        unmount(in_the_way, UnmountFlags::empty()).expect("unmounted");
        await_life(&manager, 0);
        let info = await_vm(&manager, &vm(), "running", |info| info.status == VmStatus::Running);
        assert_eq!((info.last_failure, info.failures), (None, 1), "told once");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn an_ephemeral_disk_takes_the_place_of_its_own_content_where_there_is_space_for_one() {
    isolated(|bench| {
        mount_small(&bench.path().join("state"), 10 << 20);
        let fresh = json!({ "disks": [{ "id": "data", "persistence": "ephemeral" }] });
        let config = json!({ "disks": [{ "path": "disk.img", "id": "data" }], "procurator": fresh });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &config);
        fs::write(artifact.path.join("disk.img"), vec![1; 6 << 20]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let (manager, id) = (bench.manager(), VmId::new("web"));
        create(&manager, &id, &artifact).expect("runs");
        manager.restart_vm(&id, RestartMode::Hard).expect("its content is given up for another one");
        manager.restart_vm(&id, RestartMode::Hard).expect("and for another");
        assert_eq!(manager.get_vm(&id).expect("there").starts, 3);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_start_that_fails_after_it_made_room_costs_no_persistent_content() {
    isolated(|bench| {
        mount_small(&bench.path().join("state"), 16 << 20);
        let disks = json!([{ "path": "disk.img", "id": "data" }, { "path": "other.img", "id": "other" }]);
        let image = |name: &str, persistence: &str| {
            let wish = json!({ "disks": [{ "id": "data", "persistence": persistence }] });
            let config = json!({ "disks": disks, "procurator": wish });
            let artifact = bench.artifact(name, &TinyGuest::idle(), &config);
            fs::write(artifact.path.join("disk.img"), vec![1; 6 << 20]).expect("written");
            fs::write(artifact.path.join("other.img"), vec![2; 4096]).expect("written");
            bench.hashed(artifact.path)
        };
        let (kept, fresh) = (image("kept", "persistent"), image("fresh", "ephemeral"));
        let manager = bench.manager();
        create(&manager, &vm(), &kept).expect("runs");
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &fresh).expect("runs");
        manager.stop_vm(&vm()).expect("stops");
        let volumes = bench.path().join("state/volumes/vm");
        let other = fs::File::options().write(true).open(volumes.join("other/0.img")).expect("opened");
        other.set_len(1).expect("cut");
        manager.start_vm(&vm()).expect_err("the other disk is not as it was left");
        assert_eq!(fs::metadata(volumes.join("data/1.img")).expect("there").len(), 0, "room was made");
        other.set_len(4096).expect("as before");
        manager.remove_vm(&vm()).expect("goes");
        create(&manager, &vm(), &kept).expect("runs");
        let record = fs::read_to_string(volumes.join("data/volume.json")).expect("read");
        assert!(record.contains("\"current\": 0"), "{record}");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_deletion_that_somebody_waits_for_is_finished_by_the_next_worker() {
    isolated(|bench| {
        let artifact = image_disk(&bench, "image");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.remove_vm(&vm()).expect("goes");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
        let in_the_way = runtime.block_on(begin_a_deletion_that_fails(&bench, &manager));
        create(&manager, &vm(), &artifact).expect_err("it waits");
        manager.remove_vm(&vm()).expect("it has nothing that would have to end");
        create(&manager, &vm(), &artifact).expect_err("it waits, as before");
        runtime.block_on(manager.leave_async()).expect("leaves");
        drop(manager);
        unmount(in_the_way, UnmountFlags::empty()).expect("unmounted");
        let manager = bench.manager();
        create(&manager, &vm(), &artifact).expect("runs");
        await_life(&manager, 0);
        manager.shutdown().expect("ends");
    });
}

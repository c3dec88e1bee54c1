//! Definitions on trial: a guest that becomes ready stays; one that does not gives way to the one before, with the disks as
//! they were.

use std::fs;

use serde_json::{Value, json};
use tiny_guest::TinyGuest;
use vm_model::{Assignment, Bytes, DesiredState, FailureClass, FailureKind, FailureReason};
use worker::vms::{VmId, VmInfo, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{Artifact, Workbench, await_console, await_vm, isolated, mount_small, until};

fn web() -> VmId {
    VmId::new("web")
}

/// An artifact with `guest`, whose disk begins with an image of `size` bytes that is the same for all.
fn artifact(bench: &Workbench, name: &str, guest: &TinyGuest, size: usize) -> Artifact {
    let artifact = bench.artifact(name, guest, &json!({ "disks": [{ "path": "disk.img", "id": "data" }] }));
    let mut image = vec![1; size];
    image[..512].fill(0);
    fs::write(artifact.path.join("disk.img"), image).expect("written");
    bench.hashed(artifact.path)
}

/// One whose guest counts on its disk how often it was booted, and says the count.
fn counting(bench: &Workbench) -> Artifact {
    artifact(bench, "image", &TinyGuest::lives_and_idle(0), 64 << 10)
}

/// VM `web` from `artifact`, whose guest is ready when it says `marker`, and is rolled out by `rollout`.
fn on_trial(artifact: &Artifact, marker: &str, rollout: &Value) -> Assignment {
    let probe = json!({ "id": "up", "role": "readiness", "kind": "console", "marker": marker });
    let procurator = json!({ "health": { "probes": [probe] }, "rollout": rollout });
    let mut assignment = assigned("web", artifact, DesiredState::Running);
    assignment.procurator = procurator.as_object().expect("an object").clone();
    // It is another machine than that of the definition before.
    assignment.overrides.memory_bytes = Some(Bytes::from_mib(48));
    assignment
}

fn roll_back(seconds: u64) -> Value {
    json!({ "ready_deadline_s": seconds, "on_failure": "roll_back" })
}

fn await_life(node: &Told, count: u32) {
    await_console(&node.manager, &web(), &format!("life {count:08x}"));
    await_console(&node.manager, &web(), "ready");
    node.await_phase("web", "running");
}

/// A node with VM `web` from `artifact` in its first life.
fn at_work(bench: &Workbench, artifact: &Artifact) -> Told {
    let node = Told::start(bench.manager());
    node.tell(None, vec![assigned("web", artifact, DesiredState::Running)]).expect("taken");
    await_life(&node, 0);
    node
}

fn refusal(info: &VmInfo) -> Option<&FailureReason> {
    info.wanted.as_ref()?.refusal.as_ref()
}

/// Waits until the definition on trial was taken back and the one before, whose memory has its usual size, runs again.
fn await_taken_back(node: &Told) -> VmInfo {
    let info = await_vm(&node.manager, &web(), "taken back", |info| {
        refusal(info).is_some() && info.status == VmStatus::Running && info.assignment.procurator.is_empty()
    });
    assert_eq!(info.machine.as_ref().expect("known").memory, Bytes::from_mib(32));
    let wanted = info.wanted.as_ref().expect("just seen");
    assert_eq!((wanted.next_try_at, wanted.assignment.procurator.is_empty()), (None, false));
    info
}

/// The contents of the disk.
fn contents(bench: &Workbench) -> Vec<String> {
    let entries = fs::read_dir(bench.path().join("state/volumes/web/data")).expect("listed");
    let names = entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "volume.json").collect();
    names.sort();
    names
}

#[test]
fn a_guest_that_becomes_ready_stays_with_what_it_wrote() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "ready", &roll_back(600))]).expect("taken");
        await_life(&node, 1);
        until("the way back is gone", || contents(&bench) == ["1.img"]);
        let info = node.manager.get_vm(&web()).expect("there");
        assert_eq!((info.wanted, info.starts, info.failures), (None, 2, 0));
        // The next start goes on with it.
        node.manager.stop_vm(&web()).expect("stops");
        node.manager.start_vm(&web()).expect("starts");
        await_life(&node, 2);
        assert_eq!(contents(&bench), ["1.img"], "what is in force is not tried again");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_guest_that_does_not_become_ready_gives_way_to_the_one_before_with_its_disk() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        let tried = on_trial(&image, "never", &roll_back(1));
        node.tell(None, vec![tried.clone()]).expect("taken");
        await_vm(&node.manager, &web(), "on trial", |info| info.starts == 2);
        let info = await_taken_back(&node);
        let reason = refusal(&info).expect("just seen").clone();
        assert!(reason.message.starts_with("not ready after 1 s: "), "{reason}");
        assert_eq!((reason.kind, reason.class), (FailureKind::Guest, Some(FailureClass::Unhealthy)));
        assert!(reason.console_tail.iter().any(|line| line.contains("life 00000001")), "{reason:?}");
        // It had counted as well, on a disk of its own.
        await_life(&node, 1);
        assert_eq!(contents(&bench), ["0.img"]);

        // The same again is no other assignment, for the next worker neither.
        node.manager.stop_vm(&web()).expect("stops");
        node.manager.start_vm(&web()).expect("starts");
        await_life(&node, 2);
        let starts = node.manager.get_vm(&web()).expect("there").starts;
        node.end().shutdown().expect("ends");
        let manager = bench.manager();
        let info = manager.get_vm(&web()).expect("on record");
        assert!(refusal(&info).is_some(), "it is known before anything is planned: {info:?}");
        let node = Told::start(manager);
        await_life(&node, 3);
        let info = await_taken_back(&node);
        assert_eq!(refusal(&info).map(|reason| &reason.message), Some(&reason.message));
        assert_eq!(info.starts, starts + 1, "it was not tried again");

        // Another definition is tried.
        node.tell(None, vec![on_trial(&image, "ready", &roll_back(600))]).expect("taken");
        await_life(&node, 4);
        await_vm(&node.manager, &web(), "in force", |info| info.wanted.is_none());
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_guest_that_crashes_on_trial_gives_way_to_the_one_before() {
    isolated(|bench| {
        let image = counting(&bench);
        let broken = artifact(&bench, "broken", &TinyGuest::triple_fault(), 64 << 10);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&broken, "ready", &roll_back(600))]).expect("taken");
        let info = await_taken_back(&node);
        let reason = refusal(&info).expect("just seen");
        assert!(
            reason.message.starts_with("failed before it was ready: the guest triple-faulted"),
            "{reason}"
        );
        await_life(&node, 1);
        assert_eq!(contents(&bench), ["0.img"]);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_rollout_that_keeps_tells_that_it_failed() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        let keep = json!({ "ready_deadline_s": 1, "on_failure": "keep" });
        node.tell(None, vec![on_trial(&image, "never", &keep)]).expect("taken");
        let info = await_vm(&node.manager, &web(), "told", |info| {
            info.warnings.iter().any(|warning| warning.starts_with("the rollout failed: not ready after 1 s"))
        });
        assert_eq!((info.status, info.wanted, info.starts), (VmStatus::Running, None, 2));
        await_life(&node, 1);
        assert_eq!(contents(&bench), ["0.img"], "what stays in any case is not copied");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_newer_definition_takes_the_place_of_one_on_trial_and_begins_where_that_one_did() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "never", &roll_back(600))]).expect("taken");
        await_life(&node, 1);
        let mut newer = assigned("web", &image, DesiredState::Running);
        newer.overrides.memory_bytes = Some(Bytes::from_mib(64));
        node.tell(None, vec![newer]).expect("taken");
        await_vm(&node.manager, &web(), "newer", |info| info.starts == 3);
        await_life(&node, 1);
        let info = await_vm(&node.manager, &web(), "in force", |info| info.wanted.is_none());
        assert_eq!(info.machine.expect("known").memory, Bytes::from_mib(64));
        assert_eq!(contents(&bench), ["0.img"]);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn probes_that_change_during_a_trial_judge_the_same_machine() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "never", &roll_back(600))]).expect("taken");
        await_life(&node, 1);
        assert_eq!(contents(&bench), ["0.img", "1.img"]);
        node.tell(None, vec![on_trial(&image, "ready", &roll_back(600))]).expect("taken");
        until("it is accepted", || contents(&bench) == ["1.img"]);
        let info = node.manager.get_vm(&web()).expect("there");
        assert_eq!((info.wanted, info.starts), (None, 2));
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn going_back_by_assignment_ends_a_trial() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "never", &roll_back(600))]).expect("taken");
        await_life(&node, 1);
        node.tell(None, vec![assigned("web", &image, DesiredState::Running)]).expect("taken");
        await_vm(&node.manager, &web(), "back", |info| info.starts == 3 && info.wanted.is_none());
        await_life(&node, 1);
        assert_eq!(contents(&bench), ["0.img"]);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_trial_that_is_stopped_is_tried_again_by_the_next_start() {
    isolated(|bench| {
        let image = counting(&bench);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "never", &roll_back(600))]).expect("taken");
        await_life(&node, 1);
        node.manager.stop_vm(&web()).expect("stops");
        until("the disk is back", || contents(&bench) == ["0.img"]);
        node.manager.start_vm(&web()).expect("starts");
        await_life(&node, 1);
        let info = await_vm(&node.manager, &web(), "on trial", |info| info.starts == 3);
        assert_eq!(info.machine.expect("known").memory, Bytes::from_mib(48));
        // It goes with its worker, and is tried again by the next.
        node.end().shutdown().expect("ends");
        assert_eq!(contents(&bench), ["0.img"]);
        let node = Told::start(bench.manager());
        await_life(&node, 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_rollout_for_which_there_is_no_space_is_refused_while_the_vm_runs() {
    isolated(|bench| {
        mount_small(&bench.path().join("state"), 10 << 20);
        let image = artifact(&bench, "image", &TinyGuest::lives_and_idle(0), 6 << 20);
        let node = at_work(&bench, &image);
        node.tell(None, vec![on_trial(&image, "ready", &roll_back(600))]).expect("taken");
        let info = await_vm(&node.manager, &web(), "refused", |info| refusal(info).is_some());
        let reason = refusal(&info).expect("just seen");
        assert!(reason.message.contains("a rollout that can be rolled back needs a copy of"), "{reason}");
        assert_eq!((reason.kind, info.starts, &info.status), (FailureKind::Host, 1, &VmStatus::Running));
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_definition_that_is_taken_back_gives_its_addresses_back() {
    isolated(|bench| {
        let with_nic =
            |name: &str, nic: Value| bench.artifact(name, &TinyGuest::idle(), &json!({ "net": [nic] }));
        let (image, other) = (with_nic("image", json!({})), with_nic("other", json!({ "ip": "10.77.0.9" })));
        let node = Told::start(bench.manager());
        node.tell(None, vec![assigned("web", &image, DesiredState::Running)]).expect("taken");
        node.await_phase("web", "running");
        let address = || node.manager.get_vm(&web()).expect("there").nics[0].address;
        let before = address();
        node.tell(None, vec![on_trial(&other, "never said", &roll_back(3))]).expect("taken");
        await_vm(&node.manager, &web(), "tried", |info| info.on_trial.is_some());
        assert_eq!(address().octets(), [10, 77, 0, 9]);
        await_taken_back(&node);
        assert_eq!(address(), before);
        node.end().shutdown().expect("ends");
    });
}

//! Edits of what should run, and mistakes in them: what they do to a VM that runs, and to its data.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::SourceKind;
use vm_model::{
    Assignment, AssignmentSet, Bytes, DesiredState, EndCause, EndMethod, FailureKind, Generation, Timestamp,
};
use worker::node::Refusal;
use worker::vms::{VmId, VmManager, VmManagerConfig, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{Artifact, Workbench, await_console, await_vm, isolated, mount_small, until};

const RUNNING: DesiredState = DesiredState::Running;

/// An artifact whose guest counts on its disk how often it was booted, and says the count. Its image begins with `seed`.
fn counting(bench: &Workbench, name: &str, seed: u32, more: &serde_json::Value) -> Artifact {
    let mut config = json!({ "disks": [{ "path": "disk.img" }] });
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    let artifact = bench.artifact(name, &TinyGuest::lives_and_idle(0), &config);
    let mut image = vec![0; 64 << 10];
    // The count is in the first sector; this is what tells images apart.
    image[4096..4100].copy_from_slice(&seed.to_le_bytes());
    fs::write(artifact.path.join("disk.img"), image).expect("written");
    bench.hashed(artifact.path)
}

fn plain(bench: &Workbench) -> Artifact {
    counting(bench, "image", 1, &json!({}))
}

fn web(artifact: &Artifact) -> Assignment {
    assigned("web", artifact, RUNNING)
}

/// The hardware address of the bridge that VMs are attached to.
fn bridge_mac(bench: &Workbench) -> String {
    let bridge = bench.config().network_bridge;
    let shown = Command::new("ip").args(["-o", "link", "show", "dev", &bridge]).output().expect("ip runs");
    let shown = String::from_utf8(shown.stdout).expect("text");
    shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("it is there").to_owned()
}

/// Waits until the guest has said that this is its boot number `count`, from zero.
fn await_life(node: &Told, count: u32) {
    await_console(&node.manager, &VmId::new("web"), &format!("life {count:08x}"));
    // The count has been written.
    await_console(&node.manager, &VmId::new("web"), "ready");
    node.await_phase("web", "running");
}

fn starts(node: &Told) -> u64 {
    node.manager.get_vm(&VmId::new("web")).expect("there").starts
}

/// A node with VM `web` from `artifact` in its first life.
fn at_work(bench: &Workbench, artifact: &Artifact) -> Told {
    let node = Told::start(bench.manager());
    node.tell(None, vec![web(artifact)]).expect("taken");
    await_life(&node, 0);
    node
}

#[test]
fn a_change_of_shape_restarts_the_vm_and_keeps_its_disk() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let mut larger = web(&artifact);
        larger.overrides.memory_bytes = Some(Bytes::from_mib(64));
        assert_eq!(node.plan(vec![larger.clone()]), ["restart web: memory 32 MiB → 64 MiB (disks kept)"]);
        node.tell(None, vec![larger.clone()]).expect("taken");
        await_life(&node, 1);
        let info = node.manager.get_vm(&VmId::new("web")).expect("there");
        assert_eq!(info.machine.expect("known").memory, Bytes::from_mib(64));
        let end = info.ends.last().expect("its first run ended");
        assert_eq!(end.cause, EndCause::Changed { generation: Generation::new(2) });
        larger.overrides.cmdline_append = Some("quiet".into());
        node.tell(None, vec![larger]).expect("taken");
        await_life(&node, 2);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn the_same_machine_in_other_words_runs_on() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let mut reworded = web(&artifact);
        reworded.overrides.vcpus = Some(1);
        assert_eq!(node.plan(vec![reworded.clone()]), ["keep web: it is the same machine in other words"]);
        node.tell(None, vec![reworded.clone()]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "taken over", |info| {
            info.wanted.is_none() && info.assignment.overrides.vcpus == Some(1)
        });
        reworded.overrides.cmdline_append = Some(String::new());
        reworded.references = [("/nix/store/other".into(), artifact.hash.clone())].into();
        node.tell(None, vec![reworded]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "taken over", |info| {
            info.wanted.is_none() && !info.assignment.references.is_empty()
        });
        assert_eq!(starts(&node), 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_definition_that_cannot_be_used_leaves_the_vm_running_and_says_so() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let wrong_hash = Assignment { hash: format!("sha256-{}=", "A".repeat(43)), ..web(&artifact) };
        let missing = Assignment { store_path: bench.store().join("missing"), ..web(&artifact) };
        let (mut many, mut huge, mut odd) = (web(&artifact), web(&artifact), web(&artifact));
        many.overrides.vcpus = Some(200);
        huge.overrides.memory_bytes = Some(Bytes::new(1 << 42));
        odd.procurator = json!({ "restart": { "policy": "sometimes" } }).as_object().expect("one").clone();
        let with_nic = |name, nic| web(&counting(&bench, name, 1, &json!({ "net": [nic] })));
        let jumbo = with_nic("jumbo", json!({ "mtu": 9000 }));
        let group = with_nic("group", json!({ "mac": bridge_mac(&bench) }));
        let set_aside = json!({ "memory": { "size": 1_u64 << 40, "hugepages": true } });
        let set_aside = web(&counting(&bench, "set-aside", 1, &set_aside));
        for (wanted, kind, words) in [
            (wrong_hash, FailureKind::HashMismatch, "AAAA"),
            (missing, FailureKind::Artifact, "missing"),
            (many, FailureKind::Artifact, "vcpus"),
            (huge, FailureKind::Host, "not enough memory"),
            (set_aside, FailureKind::Host, "not enough huge pages of 2 MiB: the machine takes 524288"),
            (odd, FailureKind::Artifact, "sometimes"),
            (jumbo, FailureKind::Artifact, "9000"),
            (group, FailureKind::Artifact, "MAC address of a VM"),
        ] {
            node.tell(None, vec![wanted.clone()]).expect("taken");
            let info = await_vm(&node.manager, &VmId::new("web"), "refused", |info| {
                info.wanted
                    .as_ref()
                    .is_some_and(|change| change.assignment == wanted && change.refusal.is_some())
            });
            let refusal = info.wanted.and_then(|change| change.refusal).expect("just seen");
            assert_eq!(refusal.kind, kind, "{refusal}");
            assert!(refusal.message.contains(words), "{refusal}");
            assert_eq!((info.status, info.starts), (VmStatus::Running, 1), "{refusal}");
            assert_eq!(info.assignment.store_path, artifact.path, "what is in force is told beside it");
        }
        node.tell(None, vec![web(&artifact)]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "as before", |info| info.wanted.is_none());
        assert_eq!(starts(&node), 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_kernel_that_does_not_start_gives_way_to_the_one_before() {
    isolated(|bench| {
        let other_mac = json!({ "net": [{ "mac": "52:54:00:00:00:01" }] });
        let (artifact, broken) = (plain(&bench), counting(&bench, "broken", 2, &other_mac));
        fs::write(broken.path.join("vmlinux"), [9; 9000]).expect("written");
        let broken = bench.hashed(broken.path);
        let node = at_work(&bench, &artifact);
        let wires = || {
            let nics = node.manager.get_vm(&VmId::new("web")).expect("there").nics;
            nics.into_iter().map(|nic| (nic.address, nic.mac)).collect::<Vec<_>>()
        };
        let before = wires();
        node.tell(None, vec![web(&broken)]).expect("taken");
        await_life(&node, 1);
        assert_eq!(wires(), before, "nothing of what was refused is left");
        let info = node.manager.get_vm(&VmId::new("web")).expect("there");
        let refusal = info.wanted.and_then(|change| change.refusal).expect("it was refused");
        assert!(refusal.message.contains("kernel"), "{refusal}");
        assert_eq!(info.assignment.store_path, artifact.path);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_vm_that_was_stopped_for_a_start_that_failed_is_left_alone_for_a_while() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let vsock = json!({ "vsock": { "cid": 7 } });
        let vsock = web(&counting(&bench, "vsock", 1, &vsock));
        let node = at_work(&bench, &artifact);
        // In the way of the directory of its sockets, which shows when the machine is made.
        let sockets = bench.path().join("state/vms/web/sockets");
        std::os::unix::fs::symlink("nowhere", sockets).expect("made");
        node.tell(None, vec![vsock]).expect("taken");
        await_life(&node, 1);
        let wanted = node.manager.get_vm(&VmId::new("web")).expect("there").wanted.expect("it is refused");
        let refusal = wanted.refusal.expect("it is refused");
        assert_eq!(refusal.kind, FailureKind::Host, "{refusal}");
        let next_try = wanted.next_try_at.expect("it is tried again");
        assert!(next_try > Timestamp::now().after(Duration::from_secs(15)), "{next_try}");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_store_path_that_comes_is_taken_without_being_asked_again() {
    isolated(|bench| {
        let (artifact, other) =
            (plain(&bench), counting(&bench, "other", 1, &json!({ "serial": { "mode": "Tty" } })));
        let away = bench.path().join("away");
        fs::rename(&other.path, &away).expect("moved");
        let node = at_work(&bench, &artifact);
        node.tell(None, vec![web(&other)]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "refused", |info| {
            info.wanted
                .as_ref()
                .is_some_and(|change| change.refusal.is_some() && change.next_try_at.is_some())
        });
        fs::rename(&away, &other.path).expect("moved back");
        await_life(&node, 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn another_image_seeds_the_disk_and_going_back_brings_back_the_old_one() {
    isolated(|bench| {
        let (one, two) = (plain(&bench), counting(&bench, "two", 2, &json!({})));
        let same_disk = counting(&bench, "same", 1, &json!({ "payload": { "cmdline": "other" } }));
        let node = at_work(&bench, &one);
        node.tell(None, vec![web(&same_disk)]).expect("taken");
        await_life(&node, 1);
        let plan = node.plan(vec![web(&two)]);
        assert!(plan[0].contains("disk0 made anew") && plan[0].contains("stays for 24 h"), "{plan:?}");
        node.tell(None, vec![web(&two)]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "on the other image", |info| {
            info.status == VmStatus::Running && info.assignment.store_path == two.path
        });
        await_life(&node, 0);
        let plan = node.plan(vec![web(&one)]);
        assert!(plan[0].contains("disk0 goes back"), "{plan:?}");
        node.tell(None, vec![web(&one)]).expect("taken");
        await_life(&node, 2);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_vm_that_was_left_out_comes_back_with_its_data_at_any_time() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let other = || assigned("other", &artifact, RUNNING);
        let address = node.manager.get_vm(&VmId::new("web")).expect("there").nics[0].address;
        // While it is on its way out.
        node.tell(None, vec![other()]).expect("taken");
        node.tell(None, vec![web(&artifact), other()]).expect("taken");
        await_life(&node, 1);
        // When it is gone.
        node.tell(None, vec![other()]).expect("taken");
        until("it is kept", || !node.manager.list_removed_vms().is_empty());
        until("it is gone", || node.manager.get_vm(&VmId::new("web")).is_err());
        node.tell(None, vec![web(&artifact), other()]).expect("taken");
        await_life(&node, 2);
        let info = node.manager.get_vm(&VmId::new("web")).expect("there");
        assert_eq!(info.nics[0].address, address);
        assert_eq!(node.manager.list_removed_vms(), []);
        let causes: Vec<_> = info.ends.iter().map(|end| (end.method, end.cause)).collect();
        assert_eq!(causes, [(EndMethod::Killed, EndCause::Removed), (EndMethod::Killed, EndCause::Removed)]);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_removed_vm_comes_back_under_the_next_worker() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        node.tell(None, vec![assigned("other", &artifact, RUNNING)]).expect("taken");
        until("it is kept", || !node.manager.list_removed_vms().is_empty());
        node.end().shutdown().expect("ends");
        let node = Told::start(bench.manager());
        assert_eq!(node.manager.list_removed_vms().len(), 1);
        node.tell(None, vec![web(&artifact)]).expect("taken");
        await_life(&node, 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn an_emptied_state_waits_for_a_word() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let verdict = node.assign(AssignmentSet::default()).expect("admitted");
        let held = verdict.held.expect("held");
        assert!(held.reason.contains("allow_removals") && held.removals == 1, "{held:?}");
        assert_eq!(verdict.generation, Generation::new(1), "what was in force still is");
        assert_eq!(node.manager.node_status().borrow().held(), Some(&held));
        assert_eq!(node.manager.get_vm_status(&VmId::new("web")).expect("there"), VmStatus::Running);
        // Its source says nothing that can be used any more.
        node.lose_source();
        assert!(node.allow_removals(None).is_err(), "nobody can allow what is no longer said");
        assert_eq!(node.manager.node_status().borrow().held(), None);
        node.assign(AssignmentSet::default()).expect("admitted").held.expect("held again");
        // Another state takes its place.
        node.tell(None, vec![web(&artifact)]).expect("taken");
        assert_eq!(node.manager.node_status().borrow().held(), None);
        assert!(node.allow_removals(None).is_err(), "nothing is held any more");
        // It goes with the word, in the state or by a call.
        node.assign(AssignmentSet::default()).expect("admitted");
        node.allow_removals(None).expect("one was held");
        until("it is gone", || node.manager.list_vms().is_empty());
        node.tell(None, vec![web(&artifact)]).expect("taken");
        await_life(&node, 1);
        let allowed = AssignmentSet { allow_removals: true, ..AssignmentSet::default() };
        assert_eq!(node.assign(allowed).expect("taken").held, None);
        until("it is gone", || node.manager.list_vms().is_empty());
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn what_is_in_force_survives_a_restart_beside_what_was_refused() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let wrong = Assignment { hash: format!("sha256-{}=", "A".repeat(43)), ..web(&artifact) };
        node.tell(None, vec![wrong.clone()]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "refused", |info| info.wanted.is_some());
        node.end().shutdown().expect("ends");
        let node = Told::start(bench.manager());
        await_life(&node, 1);
        let info = node.manager.get_vm(&VmId::new("web")).expect("there");
        assert_eq!(info.assignment.hash, artifact.hash);
        assert_eq!(info.wanted.expect("still wanted").assignment, wrong);
        assert_eq!(info.ends.last().expect("kept").cause, EndCause::WorkerEnded);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_state_that_cannot_be_kept_is_neither_acknowledged_nor_applied() {
    isolated(|bench| {
        let state = bench.path().join("state");
        mount_small(&state, 2 << 20);
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        fill(&state);
        let many = (0..2000).map(|number| assigned(&format!("vm-{number}"), &artifact, RUNNING)).collect();
        let refusal = node.tell(None, many).expect_err("there is no space");
        assert!(
            matches!(&refusal, Refusal::NotKept { problem } if problem.contains("No space left")),
            "{refusal}"
        );
        assert_eq!(node.manager.list_vms().len(), 1);
        assert_eq!(node.manager.get_vm_status(&VmId::new("web")).expect("there"), VmStatus::Running);
        node.end().shutdown().expect("ends");
    });
}

/// Fills the file system at `directory`.
fn fill(directory: &Path) {
    let _ = fs::write(directory.join("filler"), vec![1_u8; 64 << 20]).expect_err("it is full now");
}

#[test]
fn the_vm_of_an_entry_that_cannot_be_used_runs_on() {
    isolated(|bench| {
        let artifact = plain(&bench);
        let node = at_work(&bench, &artifact);
        let refused = vec![vm_model::RefusedEntry { id: VmId::new("web"), problem: "no hash".into() }];
        let vms = vec![assigned("other", &artifact, RUNNING)];
        node.assign(AssignmentSet { vms, refused, ..AssignmentSet::default() }).expect("taken");
        node.await_phase("other", "running");
        assert_eq!(node.manager.get_vm_status(&VmId::new("web")).expect("there"), VmStatus::Running);
        assert_eq!(node.manager.node_status().borrow().sources[&SourceKind::File].refused_entries.len(), 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_vm_that_failed_is_tried_again_when_it_is_asked_for_again() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::triple_fault());
        let config = VmManagerConfig { auto_restart: false, ..bench.config() };
        let node = Told::start(VmManager::new(config).expect("starts"));
        node.tell(None, vec![web(&artifact)]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "failed", |info| info.failures == 1);
        node.await_phase("web", "failed");
        node.tell(None, vec![web(&artifact)]).expect("taken");
        await_vm(&node.manager, &VmId::new("web"), "failed again", |info| info.failures == 2);
        node.end().shutdown().expect("ends");
    });
}

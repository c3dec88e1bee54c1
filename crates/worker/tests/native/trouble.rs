//! A host that runs out of what VMs need: one clear error for the VM concerned, nothing left, the others go on.

use std::fs;
use std::path::Path;

use serde_json::json;
use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmManager, VmStatus};

use crate::workbench::{Artifact, Workbench, create, isolated, links, mount_small, vm_files};

/// An artifact whose disk is writable and has `bytes` of data.
fn with_disk(bench: &Workbench, name: &str, bytes: usize) -> Artifact {
    let config = json!({ "disks": [{ "path": "disk.img" }] });
    let artifact = bench.artifact(name, &TinyGuest::idle(), &config);
    fs::write(artifact.path.join("disk.img"), vec![7_u8; bytes]).expect("written");
    bench.hashed(artifact.path)
}

fn refused(manager: &VmManager, id: &VmId, artifact: &Artifact) -> String {
    create(manager, id, artifact).expect_err("refused").to_string()
}

fn leases(state: &Path) -> usize {
    fs::read_to_string(state.join("leases.json")).unwrap_or_default().matches("\"address\"").count()
}

#[test]
fn a_disk_that_does_not_fit_fails_its_vm_and_is_not_left_half_copied() {
    isolated(|bench| {
        let state = bench.path().join("state");
        mount_small(&state, 2 << 20);
        let (small, large) = (with_disk(&bench, "small", 4096), with_disk(&bench, "large", 8 << 20));
        let manager = bench.manager();
        create(&manager, &VmId::new("small"), &small).expect("runs");
        let before = (links(), leases(&state));

        let id = VmId::new("large");
        let error = refused(&manager, &id, &large);
        assert!(error.contains("volumes/large/disk0") && error.contains("No space left"), "{error}");
        assert_eq!((links(), leases(&state)), before);
        let kept: Vec<_> = fs::read_dir(state.join("vms/large")).expect("there").collect();
        assert_eq!(kept.len(), 1, "the record alone: {kept:?}");
        assert_eq!(manager.get_vm_status(&VmId::new("small")).expect("there"), VmStatus::Running);
        manager.remove_vm(&id).expect("goes");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn an_image_does_not_choose_which_files_of_the_host_its_guest_gets() {
    isolated(|bench| {
        let shadow = bench.path().join("shadow");
        fs::write(&shadow, "root").expect("written");
        let credentials = json!({ "db": { "value": "given" }, "host": { "file": shadow } });
        let config = json!({ "procurator": { "credentials": credentials } });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &config);
        let manager = bench.manager();
        let id = VmId::new("web-1");
        let error = refused(&manager, &id, &artifact);
        assert!(error.contains("credential host") && error.contains("lies below none"), "{error}");
        manager.remove_vm(&id).expect("goes");

        let harmless = json!({
            "platform": { "oem_strings": ["any text"] },
            "procurator": { "credentials": { "db": { "value": "given" } }, "health": { "systemd": true } }
        });
        let artifact = bench.artifact("harmless", &TinyGuest::idle(), &harmless);
        create(&manager, &id, &artifact).expect("runs");
        assert!(
            bench.path().join("state/vms/web-1/sockets/vsock.sock").exists(),
            "the probe needs a socket device"
        );
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_vm_that_cannot_be_recorded_is_not_started() {
    isolated(|bench| {
        // A file system that nothing but records is written to: whatever else the worker writes in its state directory, and
        // whenever, would leave some space when it replaces a file.
        let records = bench.path().join("state/vms");
        mount_small(&records, 1 << 20);
        let artifact = bench.plain("image", &TinyGuest::idle());
        let manager = bench.manager();
        let filler = records.join("filler");
        let _ = fs::write(&filler, vec![0_u8; 2 << 20]).expect_err("it is full now");

        let id = VmId::new("late");
        let error = refused(&manager, &id, &artifact);
        assert!(error.contains("record.json") && error.contains("No space left"), "{error}");
        assert_eq!(links(), ["br-procurator", "lo"]);
        fs::remove_file(&filler).expect("removed");
        create(&manager, &id, &artifact).expect("runs when there is space");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn more_memory_than_the_host_has_is_refused_with_both_sizes() {
    isolated(|bench| {
        let config = json!({ "memory": { "size": 1_u64 << 42 } });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &config);
        let manager = bench.manager();
        let error = refused(&manager, &VmId::new("huge"), &artifact);
        assert!(error.contains("4194304 MiB") && error.contains("this host has"), "{error}");
        assert_eq!(links(), ["br-procurator", "lo"]);
        assert_eq!(leases(&bench.path().join("state")), 0);
    });
}

#[test]
fn a_kernel_that_is_none_leaves_no_copy_of_its_disk() {
    isolated(|bench| {
        let artifact = with_disk(&bench, "image", 4096);
        fs::write(artifact.path.join("vmlinux"), [9; 9000]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let manager = bench.manager();
        let error = refused(&manager, &VmId::new("odd"), &artifact);
        assert!(error.contains("kernel"), "{error}");
        assert_eq!(vm_files(&bench.path().join("state/vms/odd")), ["record.json"]);
        assert_eq!(leases(&bench.path().join("state")), 0);
    });
}

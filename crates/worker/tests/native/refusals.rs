//! Bad input and a host that does not play along: one clear error each, and nothing left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmManager, VmManagerConfig, VmManagerError, VmStatus};

use crate::workbench::{Workbench, create, isolated, links, vm_files};

fn remove(path: &Path, name: &str) {
    fs::remove_file(path.join(name)).expect("removed");
}

/// A name, what is done to a good artifact, and words that its refusal must have.
type Case = (&'static str, Box<dyn FnOnce(&Path)>, &'static [&'static str]);

/// Why an artifact that `spoil` has worked on cannot run.
fn refusal(bench: &Workbench, manager: &VmManager, name: &str, spoil: impl FnOnce(&Path)) -> String {
    let artifact = bench.artifact(
        name,
        &TinyGuest::idle(),
        &json!({ "disks": [{ "path": "disk.img", "readonly": true }] }),
    );
    fs::write(artifact.path.join("disk.img"), [0_u8; 4096]).expect("written");
    spoil(&artifact.path);
    let artifact = bench.hashed(artifact.path);
    let error = create(manager, &VmId::new(name), &artifact).expect_err("refused");
    match error {
        VmManagerError::Failed { reason, .. } => reason.message,
        other => other.to_string(),
    }
}

#[test]
fn a_bad_artifact_fails_its_vm_with_one_clear_reason_and_no_other_vm() {
    isolated(|bench| {
        let manager = bench.manager();
        let good = bench.plain("good", &TinyGuest::idle());
        create(&manager, &VmId::new("good"), &good).expect("runs");
        let before = links();
        let cases: Vec<Case> = vec![
            ("no-kernel", Box::new(|path| remove(path, "vmlinux")), &["vmlinux"]),
            ("no-config", Box::new(|path| remove(path, "vm-config.json")), &["vm-config.json"]),
            ("no-disk", Box::new(|path| remove(path, "disk.img")), &["disk.img"]),
            (
                "odd-kernel",
                Box::new(|path| fs::write(path.join("vmlinux"), [9; 9000]).expect("written")),
                &["odd-kernel/vmlinux", "kernel"],
            ),
            (
                "odd-config",
                Box::new(|path| fs::write(path.join("vm-config.json"), "{").expect("written")),
                &["vm-config.json"],
            ),
            (
                "bad-key",
                Box::new(|path| fs::write(path.join("vm-config.json"), r#"{"cpu": {}}"#).expect("written")),
                &["cpu", "cpus"],
            ),
            (
                "dir-disk",
                Box::new(|path| {
                    fs::remove_file(path.join("disk.img")).expect("removed");
                    fs::create_dir(path.join("disk.img")).expect("created");
                }),
                &["disk.img"],
            ),
            (
                "link-out",
                Box::new(|path| {
                    fs::remove_file(path.join("disk.img")).expect("removed");
                    symlink("/etc/passwd", path.join("disk.img")).expect("linked");
                }),
                &["disk.img", "/etc/passwd"],
            ),
        ];
        for (name, spoil, words) in cases {
            let reason = refusal(&bench, &manager, name, spoil);
            for word in words {
                assert!(reason.contains(word), "{name}: {reason}");
            }
            assert!(matches!(manager.get_vm_status(&VmId::new(name)), Ok(VmStatus::Failed(_))), "{name}");
            assert_eq!(links(), before, "{name} left a link");
            let kept = vm_files(&manager.config().vm_artifacts_dir.join(name));
            assert_eq!(kept, ["record.json"], "{name}: only the record says that it was asked for");
            manager.remove_vm(&VmId::new(name)).expect("a failed VM can be removed");
        }
        assert_eq!(manager.get_vm_status(&VmId::new("good")).expect("there"), VmStatus::Running);
        let leases = fs::read_to_string(bench.path().join("state").join("leases.json")).expect("there");
        assert_eq!(leases.matches("\"address\"").count(), 1, "{leases}");
    });
}

#[test]
fn a_wrong_hash_names_both_and_is_not_retried() {
    isolated(|bench| {
        let manager = VmManager::new(bench.config()).expect("starts");
        let mut artifact = bench.plain("image", &TinyGuest::idle());
        let right = artifact.hash.clone();
        artifact.hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
        let id = VmId::new("hash");
        let error = create(&manager, &id, &artifact).expect_err("refused").to_string();
        assert!(error.contains(&right) && error.contains(&artifact.hash), "{error}");
        assert!(matches!(manager.get_vm_status(&id), Ok(VmStatus::Failed(_))));
        artifact.hash = "md5-x".to_owned();
        let error = create(&manager, &VmId::new("odd"), &artifact).expect_err("refused").to_string();
        assert!(error.contains("md5-x"), "{error}");
    });
}

#[test]
fn an_address_that_another_vm_has_is_refused_naming_it() {
    isolated(|bench| {
        let manager = bench.manager();
        let net = json!({ "net": [{ "ip": "10.77.0.9" }] });
        let first = bench.artifact("first", &TinyGuest::idle(), &net);
        let second = bench.artifact("second", &TinyGuest::idle(), &net);
        create(&manager, &VmId::new("first"), &first).expect("runs");
        let error = create(&manager, &VmId::new("second"), &second).expect_err("refused").to_string();
        assert!(error.contains("10.77.0.9") && error.contains("first/net0"), "{error}");
    });
}

#[test]
fn a_host_that_does_not_play_along_is_told_at_the_start_and_left_as_it_was() {
    isolated(|bench| {
        let refused = |change: fn(&mut VmManagerConfig)| {
            let mut config = bench.config();
            change(&mut config);
            let error = VmManager::new(config).expect_err("refused");
            vm_model::error_chain(&error)
        };
        let text = refused(|config| config.network_bridge = "a-bridge-with-a-long-name".to_owned());
        assert!(text.contains("a-bridge-with-a-long-name") && text.contains("15"), "{text}");
        let text = refused(|config| config.vm_subnet_base = "10.77.0.1/24".to_owned());
        assert!(text.contains("10.77.0.0/24"), "{text}");
        let text = refused(|config| config.vm_subnet_base = "here".to_owned());
        assert!(text.contains("10.100.0.0/16"), "{text}");
        let text = refused(|config| config.store_roots = vec!["/nonexistent".into()]);
        assert!(text.contains("/nonexistent"), "{text}");
        assert_eq!(links(), ["lo"]);

        // What may pass keeps no worker from starting: the network waits, and what has its name is left alone.
        let manager = VmManager::new(VmManagerConfig { network_bridge: "lo".to_owned(), ..bench.config() });
        let manager = manager.expect("starts");
        let told = manager.network_degradations().join("; ");
        assert!(told.contains("no VM starts in it") && told.contains("lo"), "{told}");
        manager.shutdown().expect("ends");
        drop(manager);
        assert_eq!(links(), ["lo"]);

        let manager = bench.manager();
        let text = refused(|_| {});
        assert!(text.contains("another worker uses it"), "{text}");
        drop(manager);
    });
}

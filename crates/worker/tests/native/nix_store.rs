//! A store path of the real Nix under its VM: collected, deleted, made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::workbench::{Artifact, create, isolated, until};

/// What a Nix program prints when it works on the store of its own below `home`.
fn nix(home: &Path, arguments: &[&str]) -> String {
    let nix = home.join("nix");
    let output = Command::new("nix-store")
        .args(arguments)
        .env("HOME", home)
        .env("NIX_CONF_DIR", home)
        .env("NIX_STORE_DIR", nix.join("store"))
        .env("NIX_STATE_DIR", nix.join("var/nix"))
        .env("NIX_LOG_DIR", nix.join("var/log"))
        .env_remove("NIX_REMOTE")
        .output()
        .expect("nix-store (package nix-bin) runs; PROCURATOR_SKIP_NIX_TESTS=1 leaves this out");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nix-store {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_path_of_the_real_nix_is_kept_for_its_vm_and_boots_when_it_was_made_again() {
    if std::env::var_os("PROCURATOR_SKIP_NIX_TESTS").is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: a VM of a path of the real Nix (PROCURATOR_SKIP_NIX_TESTS=1)");
        return;
    }
    isolated(|bench| {
        let home = bench.path().join("home");
        fs::create_dir(&home).expect("created");
        fs::write(home.join("nix.conf"), "build-users-group =\nsandbox = false\nsubstituters =\n")
            .expect("written");
        let source = bench.plain("image", &TinyGuest::idle()).path;
        let add = || nix(&home, &["--add", &source.to_string_lossy()]);
        let path = add();
        // By Nix's own word, in the form in which it gives it.
        let image = Artifact { hash: nix(&home, &["--query", "--hash", &path]), path: PathBuf::from(&path) };
        let manager = VmManager::new(VmManagerConfig {
            auto_restart: false,
            removal_grace: Duration::ZERO,
            store_roots: vec![home.join("nix/store")],
            ..bench.config()
        })
        .expect("starts");
        let id = VmId::new("web-1");
        create(&manager, &id, &image).expect("runs");
        nix(&home, &["--gc"]);
        assert!(image.path.exists(), "its VM needs it");

        manager.stop_vm(&id).expect("stops");
        nix(&home, &["--gc"]);
        assert!(image.path.exists(), "its VM is to start again");
        nix(&home, &["--delete", "--ignore-liveness", &path]);
        let refused = manager.start_vm(&id).expect_err("nothing is there").to_string();
        assert!(refused.contains(&path), "{refused}");
        assert_eq!(add(), path, "the same content has the same name");
        manager.start_vm(&id).expect("what was made again is what was assigned");

        manager.remove_vm(&id).expect("goes");
        until("nobody needs it", || nix(&home, &["--gc", "--print-dead"]).contains(&path));
        nix(&home, &["--gc"]);
        assert!(!image.path.exists());
        manager.shutdown().expect("ends");
    });
}

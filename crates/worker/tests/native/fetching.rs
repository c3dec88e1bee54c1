//! A VM whose store path is not on this host: fetched from a binary cache that the real Nix wrote, with nothing else done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tiny_guest::TinyGuest;
use vm_model::{Bytes, FailureKind};
use worker::vms::{FetchSettings, VmId, VmManager, VmManagerConfig};

use crate::workbench::{Artifact, Workbench, await_console, console, create, isolated};

/// A store of Nix that is there no more, and the cache that was made of it.
struct Cache {
    place: PathBuf,
    /// The artifact under its name in the store.
    artifact: Artifact,
    key: String,
}

impl Cache {
    fn of(bench: &Workbench, artifact: &Artifact) -> Self {
        let place = bench.path().join("nix-host");
        let path = |name: &str| place.join(name);
        fs::create_dir_all(path("conf")).expect("made");
        let conf = "build-users-group =\nsubstituters =\nexperimental-features = nix-command\n";
        fs::write(path("conf/nix.conf"), conf).expect("written");
        let (secret, public) = (path("secret"), path("public"));
        let keys = [secret.as_os_str(), public.as_os_str()];
        run(nix(&place, "nix-store").args(["--generate-binary-cache-key", "test-1"]).args(keys));
        let added = run(nix(&place, "nix-store").arg("--add").arg(&artifact.path));
        let added = PathBuf::from(added.trim());
        let cache =
            format!("file://{}?compression=zstd&secret-key={}", path("cache").display(), secret.display());
        run(nix(&place, "nix").args(["copy", "--to", &cache]).arg(&added));
        fs::rename(path("nix"), path("gone")).expect("moved");
        fs::create_dir_all(path("nix/store")).expect("made");
        let key = fs::read_to_string(public).expect("read").trim().to_owned();
        Self { artifact: Artifact { path: added, ..artifact.clone() }, place, key }
    }

    fn manager(&self, bench: &Workbench, trusted: &str) -> VmManager {
        let cache = format!("file://{}", self.place.join("cache").display());
        let fetch = FetchSettings {
            caches: vec![cache.parse().expect("a cache")],
            trusted_keys: vec![trusted.parse().expect("a key")],
            parallel: std::num::NonZeroUsize::MIN,
            largest: Bytes::new(1 << 30),
            authorities: PathBuf::new(),
        };
        let config = VmManagerConfig {
            auto_restart: false,
            store_roots: vec![self.place.join("nix/store")],
            fetch: Some(fetch),
            ..bench.config()
        };
        VmManager::new(config).expect("the host can run VMs")
    }
}

fn nix(place: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("NIX_STORE_DIR", place.join("nix/store"))
        .env("NIX_STATE_DIR", place.join("nix/var/nix"))
        .env("NIX_LOG_DIR", place.join("nix/var/log/nix"))
        .env("NIX_CONF_DIR", place.join("conf"))
        .env("HOME", place);
    command
}

/// Runs `command` to its end; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_vm_whose_store_path_is_missing_has_it_fetched_and_runs() {
    isolated(|bench| {
        let cache = Cache::of(&bench, &bench.plain("image", &TinyGuest::hello("fetched and booted\n")));
        assert!(!cache.artifact.path.exists());
        let (manager, id) = (cache.manager(&bench, &cache.key), VmId::new("vm"));
        create(&manager, &id, &cache.artifact).expect("fetched");
        await_console(&manager, &id, "fetched and booted");
        assert!(cache.artifact.path.join("vmlinux").exists());
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_path_that_nobody_trusted_has_signed_is_not_run_and_leaves_nothing() {
    isolated(|bench| {
        let cache = Cache::of(&bench, &bench.plain("image", &TinyGuest::hello("never\n")));
        let stranger = format!("test-1:{}=", "A".repeat(43));
        let (manager, id) = (cache.manager(&bench, &stranger), VmId::new("vm"));
        let refused = create(&manager, &id, &cache.artifact).expect_err("refused").to_string();
        assert!(refused.contains("is signed by \"test-1\"; trusted are test-1"), "{refused}");
        let reason = manager.get_vm(&id).expect("there").last_failure.expect("a reason");
        // It may be signed later.
        assert_eq!((reason.kind, reason.transient), (FailureKind::Artifact, true));
        assert!(!console(&manager, &id).contains("never"));
        assert_eq!(fs::read_dir(cache.place.join("nix/store")).expect("read").count(), 0);
        manager.shutdown().expect("ends");
    });
}

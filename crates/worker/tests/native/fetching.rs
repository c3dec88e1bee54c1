//! A VM whose store path is not on this host: fetched from a binary cache that the real Nix wrote, with nothing else done.

use std::fs;
use std::path::{Path, PathBuf};

use test_host::NixCache;
use tiny_guest::TinyGuest;
use vm_model::{Bytes, FailureKind};
use worker::vms::{FetchSettings, VmId, VmManager, VmManagerConfig};

use crate::workbench::{Workbench, await_console, console, create, isolated};

fn cache_of(bench: &Workbench, guest: &TinyGuest) -> NixCache {
    NixCache::of(bench.path().join("nix-host"), &[bench.plain("image", guest)], "zstd")
}

fn manager(cache: &NixCache, bench: &Workbench, trusted: &str) -> VmManager {
    let fetch = FetchSettings {
        caches: vec![format!("file://{}", cache.directory().display()).parse().expect("a cache")],
        trusted_keys: vec![trusted.parse().expect("a key")],
        parallel: std::num::NonZeroUsize::MIN,
        largest: Bytes::new(1 << 30),
        authorities: PathBuf::new(),
    };
    let config = VmManagerConfig {
        auto_restart: false,
        store_roots: vec![cache.store()],
        fetch: Some(fetch),
        ..bench.config()
    };
    VmManager::new(config).expect("the host can run VMs")
}

#[test]
fn a_vm_whose_store_path_is_missing_has_it_fetched_and_runs() {
    isolated(|bench| {
        let cache = cache_of(&bench, &TinyGuest::hello("fetched and booted\n"));
        let artifact = &cache.artifacts[0];
        assert!(!artifact.path.exists());
        let (manager, id) = (manager(&cache, &bench, &cache.key), VmId::new("vm"));
        create(&manager, &id, artifact).expect("fetched");
        await_console(&manager, &id, "fetched and booted");
        assert!(artifact.path.join("vmlinux").exists());
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_path_that_nobody_trusted_has_signed_is_not_run_and_leaves_nothing() {
    isolated(|bench| {
        let cache = cache_of(&bench, &TinyGuest::hello("never\n"));
        let stranger = format!("test-1:{}=", "A".repeat(43));
        let (manager, id) = (manager(&cache, &bench, &stranger), VmId::new("vm"));
        let refused = create(&manager, &id, &cache.artifacts[0]).expect_err("refused").to_string();
        assert!(refused.contains("is signed by \"test-1\"; trusted are test-1"), "{refused}");
        let reason = manager.get_vm(&id).expect("there").last_failure.expect("a reason");
        // It may be signed later.
        assert_eq!((reason.kind, reason.transient), (FailureKind::Artifact, true));
        assert!(!console(&manager, &id).contains("never"));
        assert_eq!(paths(&cache.store()), 0);
        manager.shutdown().expect("ends");
    });
}

/// How many store paths lie in `store`.
fn paths(store: &Path) -> usize {
    let entries = fs::read_dir(store).expect("read").flatten();
    entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
}

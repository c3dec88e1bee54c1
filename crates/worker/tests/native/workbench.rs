//! Where the tests work: a network namespace, a directory with a store and state, artifacts of tiny guests.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_host::Store;
pub(crate) use test_host::{Artifact, links};
use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmInfo, VmManager, VmManagerConfig, VmManagerError, VmStatus};

/// Generous: the machine may be busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `test` on a thread that has a network of its own: so do all threads it starts.
pub(crate) fn isolated(test: impl FnOnce(Workbench) + Send + 'static) {
    test_host::isolated(move || test(Workbench::new()));
}

/// A store and a state directory.
pub(crate) struct Workbench {
    folder: TempDir,
    store: Store,
}

/// Puts a file system of `bytes` at `directory`, for this test alone.
pub(crate) fn mount_small(directory: &Path, bytes: u64) {
    fs::create_dir_all(directory).expect("created");
    let options = CString::new(format!("size={bytes}")).expect("no zero in it");
    mount("none", directory, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("mounted");
}

impl Workbench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::create(folder.path().join("store"));
        Self { folder, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.store.root().to_path_buf()
    }

    /// Settings that touch nothing outside the namespace and the directory.
    pub(crate) fn config(&self) -> VmManagerConfig {
        VmManagerConfig {
            metrics_poll_interval: Duration::from_millis(20),
            vm_artifacts_dir: self.folder.path().join("state").join("vms"),
            vm_subnet_base: "10.77.0.0/24".to_owned(),
            store_roots: vec![self.store()],
            stop_timeout: Duration::from_secs(2),
            ..VmManagerConfig::default()
        }
    }

    /// A manager that does not restart what fails, so that a failure stays to be seen.
    pub(crate) fn manager(&self) -> VmManager {
        VmManager::new(VmManagerConfig { auto_restart: false, ..self.config() })
            .expect("the host can run VMs")
    }

    /// An artifact that runs `guest` with one interface and what `more` says.
    pub(crate) fn artifact(&self, name: &str, guest: &TinyGuest, more: &Value) -> Artifact {
        self.store.add(name, guest, more)
    }

    /// An artifact without any extra.
    pub(crate) fn plain(&self, name: &str, guest: &TinyGuest) -> Artifact {
        self.artifact(name, guest, &json!({}))
    }

    /// The store path at `path` with its hash as it is now.
    pub(crate) fn hashed(&self, path: PathBuf) -> Artifact {
        self.store.hashed(path)
    }
}

/// Creates a VM from `artifact`.
pub(crate) fn create(manager: &VmManager, id: &VmId, artifact: &Artifact) -> Result<(), VmManagerError> {
    manager.create_vm(id.clone(), &artifact.hash, &artifact.path)
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "still not: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Waits until VM `id` is as `wanted`, and tells how it is then.
pub(crate) fn await_vm(
    manager: &VmManager,
    id: &VmId,
    what: &str,
    wanted: impl Fn(&VmInfo) -> bool,
) -> VmInfo {
    let mut last = None;
    until(&format!("{id} is {what}"), || {
        last = manager.get_vm(id).ok();
        last.as_ref().is_some_and(&wanted)
    });
    last.expect("it was just looked at")
}

/// Waits until the console of VM `id` holds `text`.
pub(crate) fn await_console(manager: &VmManager, id: &VmId, text: &str) {
    until(&format!("{id} says {text:?}"), || console(manager, id).contains(text));
}

/// What VM `id` has written so far.
pub(crate) fn console(manager: &VmManager, id: &VmId) -> String {
    manager
        .get_vm_console(id)
        .map_or_else(|_| String::new(), |console| String::from_utf8_lossy(&console.head).into())
}

/// Whether the VM has ended with a failure that says `text`.
pub(crate) fn failed_with(info: &VmInfo, text: &str) -> bool {
    matches!(&info.status, VmStatus::Failed(reason) if reason.message.contains(text))
}

/// Whether `address` answers one of a few echo requests.
pub(crate) fn ping(address: &str) -> bool {
    let ping = ["ping", "-c", "3", "-i", "0.2", "-W", "2", address];
    let output = std::process::Command::new("busybox").args(ping).output().expect("busybox is installed");
    output.status.success()
}

/// What is kept in a VM's directory, but for its lock and its console.
pub(crate) fn vm_files(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).expect("listed");
    let mut names: Vec<String> =
        listed.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.retain(|name| !["lock", "console"].contains(&name.as_str()));
    names
}

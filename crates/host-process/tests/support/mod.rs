//! What the tests of real host processes share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod pretender;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use console_log::{ConsoleLimits, ConsoleRecorder};
use host_process::{Groups, HostProcessOptions, HostProcesses, JailDemand, JailSettings, Placement};
use jail::UserRange;
use machine_host::{LaunchRequest, MachineHandle, MachineHost, Recognize};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tiny_guest::TinyGuest;
use tokio::time::{sleep, timeout};
use vm_model::{
    BootSpec, Bytes, CpuSpec, MachinePhase, MachineSpec, MemoryBacking, MemorySpec, SerialMode, VmId,
};

/// Long enough for anything here on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there is KVM; where the caller was told to do without, it is said.
pub(crate) fn has_kvm() -> bool {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(error) if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|set| set == "1") => {
            eprintln!("SKIPPED: no KVM: {error}");
            false
        }
        Err(error) => panic!("these tests need KVM (PROCURATOR_SKIP_KVM_TESTS=1 skips them): {error}"),
    }
}

/// A directory of a test, which has this process for itself while it has that: tests count the processes that this one started.
pub(crate) struct Ground {
    directory: TempDir,
    /// Last, so that nothing is left of the test when the next one begins.
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Ground {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.directory
    }
}

/// Host processes outlive whoever started them, a test that failed among these.
impl Drop for Ground {
    fn drop(&mut self) {
        for pid in children() {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

pub(crate) fn directory() -> Ground {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed is done as well.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Ground { directory: tempfile::tempdir().expect("a temporary directory"), _turn: turn }
}

pub(crate) fn options(directory: &TempDir) -> HostProcessOptions {
    HostProcessOptions {
        program: vec![
            env!("CARGO_BIN_EXE_vm-host").into(),
            format!("--tree={}", directory.path().display()).into(),
        ],
        directory: directory.path().join("processes"),
        machines_per_process: NonZeroUsize::MIN,
        spare: 0,
        placement: Placement::Beside,
        // As in the daemon: whatever is tested here works in a jail.
        jail: Some(JailSettings { users: UserRange::default(), demand: JailDemand::Whole }),
        groups: Groups::Unavailable("these tests limit nothing".to_owned()),
        launch_deadline: PATIENCE,
        command_deadline: Duration::from_secs(10),
        consoles: Arc::new(|_| ConsoleRecorder::new(ConsoleLimits::default()).0),
    }
}

pub(crate) fn host(options: HostProcessOptions) -> HostProcesses {
    HostProcesses::new(options).expect("the directory is usable")
}

/// Takes every machine over.
pub(crate) fn anyone() -> Recognize {
    Arc::new(|_| Ok(()))
}

/// A request for a small machine with one vCPU that runs `guest`.
pub(crate) fn request(name: &str, guest: &TinyGuest) -> LaunchRequest {
    let spec = MachineSpec {
        uuid: uuid::Uuid::from_u128(7),
        cpus: CpuSpec::default(),
        memory: MemorySpec {
            size: Bytes::from_mib(16),
            backing: MemoryBacking::SharedMemfd,
            prefault: false,
        },
        boot: BootSpec { kernel: file_with(&guest.elf()), initrd: None, cmdline: String::new() },
        disks: Vec::new(),
        nics: Vec::new(),
        serial: SerialMode::Console,
        rng: false,
        services: Default::default(),
    };
    LaunchRequest { notes: format!("notes of {name}"), ..LaunchRequest::new(VmId::new(name), spec) }
}

pub(crate) fn file_with(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("it can be written");
    file.into()
}

/// What `future` answers; it is expected to take no time.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this takes no time")
}

/// Launches what must launch.
pub(crate) async fn launch(host: &HostProcesses, name: &str, guest: &TinyGuest) -> MachineHandle {
    within(host.launch(request(name, guest))).await.expect("the machine launches")
}

/// Waits until `is_so`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "never came: {what}");
}

pub(crate) async fn phase(machine: &MachineHandle, phase: MachinePhase) {
    let mut status = machine.status();
    within(status.wait_for(|status| status.phase == phase)).await.expect("its status is told");
}

/// The host processes that this process started, zombies among them.
pub(crate) fn children() -> BTreeSet<u32> {
    let mut children = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").expect("/proc is mounted") {
        let path = task.expect("it can be read").path().join("children");
        // A thread may end meanwhile.
        let text = fs::read_to_string(path).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there").count()
}

/// The sockets of host processes.
pub(crate) fn sockets(directory: &TempDir) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory.path().join("processes")).expect("it is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    // Where standard error is a file, there is a pipe for it beside them.
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "sock")).collect()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("it is there");
}

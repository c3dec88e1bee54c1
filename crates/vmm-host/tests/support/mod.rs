//! What the tests on real KVM share: a host, and machines with tiny guests.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hypervisor::Hypervisor;
use machine_host::{LaunchRequest, MachineHandle};
use tiny_guest::TinyGuest;
use tokio::time::timeout;
use vm_model::{
    BootSpec, Bytes, CpuSpec, InitialState, MachineSpec, MemoryBacking, MemorySpec, ResetPolicy, SerialMode,
    VmId,
};
use vmm_host::{HostOptions, VmmHost};

/// Long enough for anything here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The hypervisor, or `None` where the caller was told to do without.
fn hypervisor() -> Option<Hypervisor> {
    match Hypervisor::open() {
        Ok(hypervisor) => Some(hypervisor),
        Err(error) if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|set| set == "1") => {
            eprintln!("SKIPPED: no KVM: {error}");
            None
        }
        Err(error) => panic!("these tests need KVM (PROCURATOR_SKIP_KVM_TESTS=1 skips them): {error}"),
    }
}

/// A host of machines, or `None` where the caller was told to do without KVM.
pub(crate) fn host() -> Option<VmmHost> {
    Some(VmmHost::new(hypervisor()?, HostOptions::default()).expect("a host starts"))
}

/// A request for a small machine with one vCPU that runs `guest`.
pub(crate) fn request(name: &str, guest: &TinyGuest) -> LaunchRequest {
    LaunchRequest {
        id: VmId::new(name),
        spec: MachineSpec {
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
        },
        verified: None,
        initial: InitialState::Running,
        isolation: vm_model::Isolation::default(),
        limits: Default::default(),
        resets: ResetPolicy::default(),
        console_dir: None,
        lock: None,
        notes: String::new(),
    }
}

/// A file that holds `content`.
pub(crate) fn file_with(content: &[u8]) -> OwnedFd {
    let mut file: File = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("it can be written");
    file.into()
}

/// What `future` answers; it is expected to take no time.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this takes no time")
}

/// Launches what must launch.
pub(crate) async fn launch(host: &VmmHost, request: LaunchRequest) -> MachineHandle {
    within(host.launch(request)).await.expect("the machine launches")
}

//! Panics in the middle of a real machine. Everything else about real machines is in the crate's `tests` folder.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use tiny_guest::TinyGuest;
use tokio::time::timeout;
use vm_model::{
    BootSpec, Bytes, CpuSpec, MachinePhase, MemoryBacking, MemorySpec, ResetPolicy, SerialMode, VmId,
};

use super::*;
use crate::{HostOptions, VmmHost};
use machine_host::{LaunchRequest, MachineHandle, StopPolicy};

/// Long enough for anything here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Real machines. The one called `bad` panics in its event loop, with its vCPU in full swing; the one called
/// `bad-vcpu` on its vCPU's thread.
struct SabotagedEngine(KvmEngine);

impl Engine for SabotagedEngine {
    fn build(
        &self,
        spec: MachineSpec<OwnedFd>,
        surroundings: Surroundings,
    ) -> Result<Box<dyn Machine>, BuildFailure> {
        match surroundings.name.as_str() {
            "bad" => Ok(Box::new(Sabotaged(self.0.build(spec, surroundings)?))),
            "bad-vcpu" => {
                let console = Box::new(Sink(surroundings.console));
                let options = vmm::BuildOptions::new(surroundings.name, console).panicking_vcpu(0);
                self.0.build_with(spec, options)
            }
            _ => self.0.build(spec, surroundings),
        }
    }
}

struct Sabotaged(Box<dyn Machine>);

impl Machine for Sabotaged {
    fn counters(&self) -> Box<dyn CountersSource> {
        self.0.counters()
    }

    fn start(&mut self, initial: InitialState) -> Result<(), Cause> {
        self.0.start(initial)
    }

    fn run(&mut self, driver: &mut dyn Driver) -> MachineExit {
        self.0.run(&mut PanicsAtFirstByte(driver))
    }

    fn controls(&mut self) -> &mut dyn Controls {
        self.0.controls()
    }

    fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    fn into_remains(self: Box<Self>) -> Box<dyn Remains> {
        self.0.into_remains()
    }
}

struct PanicsAtFirstByte<'a>(&'a mut dyn Driver);

impl Driver for PanicsAtFirstByte<'_> {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake_fd()
    }

    fn woken(&mut self, controls: &mut dyn Controls) -> Flow {
        self.0.woken(controls)
    }

    fn turning(&mut self) {
        self.0.turning();
    }

    fn turned(&mut self, turn: &TurnReport<'_>) {
        self.0.turned(turn);
    }

    fn event(&mut self, event: Event) {
        let spoke = matches!(event, Event::FirstConsoleByte { .. });
        self.0.event(event);
        if spoke {
            panic!("sabotage");
        }
    }
}

fn request(name: &str) -> LaunchRequest {
    let mut kernel: File = tempfile::tempfile().expect("a temporary file");
    kernel.write_all(&TinyGuest::spin().elf()).expect("it can be written");
    LaunchRequest {
        isolation: vm_model::Isolation::default(),
        limits: machine_host::MachineLimits::default(),
        id: VmId::new(name),
        spec: MachineSpec {
            uuid: uuid::Uuid::nil(),
            cpus: CpuSpec::default(),
            memory: MemorySpec {
                size: Bytes::from_mib(16),
                backing: MemoryBacking::SharedMemfd,
                prefault: false,
            },
            boot: BootSpec { kernel: kernel.into(), initrd: None, cmdline: String::new() },
            disks: Vec::new(),
            nics: Vec::new(),
            serial: SerialMode::Console,
            rng: false,
            services: Default::default(),
        },
        verified: None,
        initial: InitialState::Running,
        resets: ResetPolicy::default(),
        console_dir: None,
        lock: None,
        notes: String::new(),
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this takes no time")
}

async fn launch(host: &VmmHost, name: &str) -> MachineHandle {
    within(host.launch(request(name))).await.expect("it launches")
}

fn host() -> Option<VmmHost> {
    let hypervisor = match Hypervisor::open() {
        Ok(hypervisor) => hypervisor,
        Err(error) if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|set| set == "1") => {
            eprintln!("SKIPPED: no KVM: {error}");
            return None;
        }
        Err(error) => panic!("this test needs KVM (PROCURATOR_SKIP_KVM_TESTS=1 skips it): {error}"),
    };
    let engine = Arc::new(SabotagedEngine(KvmEngine::new(hypervisor)));
    Some(VmmHost::with_engine(engine, HostOptions::default()).expect("a host starts"))
}

/// Waits for the end of `bad` by a panic; answers the reason. `good` is well all the while, and nothing of `bad` is
/// left.
async fn reason_of_end(host: &VmmHost, bad: &MachineHandle, good: &MachineHandle) -> String {
    let MachineExit::Failed(reason) = within(bad.exited()).await else {
        panic!("a panic is a failure");
    };
    within(bad.released()).await;
    assert_eq!(host.counts().hosted, 1);
    let threads = thread_names();
    assert!(!threads.iter().any(|name| name.contains("bad")), "its threads are gone: {threads:?}");

    assert_eq!(good.status().borrow().phase, MachinePhase::Running);
    let cpu_time = || good.counters().vcpus[0].cpu_time;
    let before = cpu_time();
    within(async {
        while cpu_time() <= before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    reason
}

#[tokio::test]
async fn a_panic_in_an_event_loop_ends_that_machine_and_its_vcpus_alone() {
    let Some(host) = host() else { return };
    let good = launch(&host, "good").await;
    let bad = launch(&host, "bad").await;
    let reason = reason_of_end(&host, &bad, &good).await;
    assert!(
        reason.starts_with("panic on thread vm:bad: sabotage at ") && reason.contains("tests.rs:"),
        "{reason}"
    );
    within(good.stop(StopPolicy::KILL)).await.expect("it stops");
}

#[tokio::test]
async fn a_panic_on_a_vcpu_thread_ends_that_machine_alone() {
    let Some(host) = host() else { return };
    let good = launch(&host, "good").await;
    let bad = launch(&host, "bad-vcpu").await;
    let reason = reason_of_end(&host, &bad, &good).await;
    assert!(reason.contains("injected by a test"), "{reason}");
    within(good.stop(StopPolicy::KILL)).await.expect("it stops");
}

fn thread_names() -> Vec<String> {
    std::fs::read_dir("/proc/self/task")
        .expect("/proc is mounted")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

//! A machine on a thread of its own, remote-controlled by a test.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::serial::ConsoleSink;
use hypervisor::Hypervisor;
use rustix::event::{EventfdFlags, eventfd};
use tiny_guest::TinyGuest;
use vm_model::{
    BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, InitialState, MacAddress,
    MachineCounters, MachineExit, MachineSpec, MemoryBacking, MemorySpec, NicOptions, NicSpec, SerialMode,
};

use crate::{BuildError, BuildOptions, Controller, CountersHandle, Flow, Machine, MachineEvent, TurnReport};

pub(super) type Spec = MachineSpec<OwnedFd>;

/// KVM, or `None` where the environment says that it may be absent.
pub(super) fn hypervisor() -> Option<Hypervisor> {
    if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|value| value == "1") {
        println!("SKIPPED: PROCURATOR_SKIP_KVM_TESTS=1");
        return None;
    }
    Some(Hypervisor::open().expect("these tests need KVM, or PROCURATOR_SKIP_KVM_TESTS=1 to go without"))
}

/// A turn that is noted down.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// A deadline for what takes milliseconds on an idle machine.
pub(super) fn long_enough() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A file without a name.
pub(super) fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A writable disk.
pub(super) fn disk(id: &str, file: File) -> DiskSpec<OwnedFd> {
    DiskSpec {
        direct_file: None,
        id: id.to_owned(),
        file: file.into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    }
}

/// A network interface.
pub(super) fn nic(id: &str, tap: OwnedFd) -> NicSpec<OwnedFd> {
    NicSpec {
        id: id.to_owned(),
        taps: vec![tap],
        mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        mtu: None,
        queue_size: 256,
        vhost: None,
        options: NicOptions::default(),
    }
}

/// As [`spec`], with `kernel` as it is.
pub(super) fn spec_of_kernel(kernel: &[u8]) -> Spec {
    let mut spec = spec(&TinyGuest::idle());
    spec.boot.kernel = file(kernel).into();
    spec
}

/// One vCPU, 64 MiB and `guest` as kernel.
pub(super) fn spec(guest: &TinyGuest) -> Spec {
    MachineSpec {
        uuid: uuid::Uuid::from_u128(7),
        cpus: CpuSpec::default(),
        memory: MemorySpec {
            size: Bytes::from_mib(64),
            backing: MemoryBacking::SharedMemfd,
            prefault: false,
        },
        boot: BootSpec { kernel: file(&guest.elf()).into(), initrd: None, cmdline: String::new() },
        disks: Vec::new(),
        nics: Vec::new(),
        serial: SerialMode::Console,
        rng: false,
        services: Default::default(),
    }
}

#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl ConsoleSink for Console {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

/// A machine without a controller.
pub(super) fn build(hypervisor: &Hypervisor, spec: Spec) -> Result<Machine, BuildError> {
    Machine::build(hypervisor, spec, BuildOptions::new("test", Box::new(Console::default())))
}

type Request = Box<dyn FnOnce(&mut Machine) -> Flow + Send>;

struct Remote {
    wake: Arc<OwnedFd>,
    requests: Receiver<Request>,
    deadline: Arc<Mutex<Option<Instant>>>,
    events: Arc<Mutex<Vec<MachineEvent>>>,
    turns: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Controller for Remote {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn woken(&mut self, machine: &mut Machine) -> Flow {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(request) = self.requests.try_recv() {
            if request(machine) == Flow::Kill {
                return Flow::Kill;
            }
        }
        Flow::Continue
    }

    fn next_deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap()
    }

    fn deadline_passed(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Kill
    }

    fn event(&mut self, event: MachineEvent) {
        self.events.lock().unwrap().push(event);
    }

    fn turned(&mut self, turn: TurnReport<'_>) {
        self.turns.lock().unwrap().push((turn.took, turn.slowest.to_string()));
    }
}

/// What is left of a guest that ended.
pub(super) struct Ended {
    pub(super) exit: MachineExit,
    pub(super) events: Vec<MachineEvent>,
    pub(super) console: String,
    pub(super) counters: MachineCounters,
    /// The slowest handler of each turn of its event loop.
    pub(super) handlers: Vec<String>,
}

/// A guest under remote control.
pub(super) struct Guest {
    console: Console,
    wake: Arc<OwnedFd>,
    requests: Sender<Request>,
    deadline: Arc<Mutex<Option<Instant>>>,
    counters: CountersHandle,
    events: Arc<Mutex<Vec<MachineEvent>>>,
    turns: Arc<Mutex<Vec<(Duration, String)>>>,
    thread: JoinHandle<(MachineExit, MachineCounters)>,
}

/// Runs a guest that ends by itself.
pub(super) fn run(hypervisor: &Hypervisor, spec: Spec) -> Ended {
    Guest::start(hypervisor, spec, InitialState::Running).join()
}

impl Guest {
    pub(super) fn start(hypervisor: &Hypervisor, spec: Spec, initial: InitialState) -> Self {
        Self::start_with(hypervisor, spec, initial, |options| options)
    }

    pub(super) fn start_with(
        hypervisor: &Hypervisor,
        spec: Spec,
        initial: InitialState,
        change: impl FnOnce(BuildOptions) -> BuildOptions + Send + 'static,
    ) -> Self {
        let console = Console::default();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap());
        let (requests, receiver) = channel();
        let deadline = Arc::new(Mutex::new(None));
        let events = Arc::new(Mutex::new(Vec::new()));
        let turns = Arc::new(Mutex::new(Vec::new()));
        let mut remote = Remote {
            wake: wake.clone(),
            requests: receiver,
            deadline: deadline.clone(),
            events: events.clone(),
            turns: turns.clone(),
        };
        let (built, counters) = channel();
        let (hypervisor, sink) = (hypervisor.clone(), console.clone());
        let thread = std::thread::spawn(move || {
            let options = change(BuildOptions::new("test", Box::new(sink)));
            let mut machine = Machine::build(&hypervisor, spec, options).expect("the machine is built");
            built.send(machine.counters_handle()).unwrap();
            machine.start(initial).expect("the machine starts");
            let exit = machine.run(&mut remote);
            let counters = machine.counters();
            drop(machine.into_remains());
            (exit, counters)
        });
        Self {
            console,
            wake,
            requests,
            deadline,
            counters: counters.recv().expect("the machine was built"),
            events,
            turns,
            thread,
        }
    }

    /// Has the machine's thread do something and waits for its answer.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Machine) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = channel();
        self.send(Box::new(move |machine| {
            let _ = answer.send(request(machine));
            Flow::Continue
        }));
        answered.recv_timeout(Duration::from_secs(60)).expect("the machine's thread answers")
    }

    fn send(&self, request: Request) {
        self.requests.send(request).expect("the machine's thread listens");
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).unwrap();
    }

    pub(super) fn counters(&self) -> MachineCounters {
        self.counters.read().expect("the machine is there")
    }

    pub(super) fn events(&self) -> Vec<MachineEvent> {
        self.events.lock().unwrap().clone()
    }

    /// The slowest handlers of turns that took [`SLOW`] or longer.
    pub(super) fn slow_turns(&self) -> Vec<String> {
        let turns = self.turns.lock().unwrap();
        turns.iter().filter(|(took, _)| *took >= SLOW).map(|(_, handler)| handler.clone()).collect()
    }

    pub(super) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.0.lock().unwrap()).into_owned()
    }

    pub(super) fn wait_for_console(&self, text: &str) {
        self.wait_until(text, |guest| guest.console().contains(text));
    }

    pub(super) fn wait_until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = long_enough();
        while !reached(self) {
            assert!(
                Instant::now() < deadline && !self.thread.is_finished(),
                "{what:?} did not come; console: {:?}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn kill_at(&self, deadline: Instant) {
        *self.deadline.lock().unwrap() = Some(deadline);
        self.ask(|_| ());
    }

    pub(super) fn kill(self) -> Ended {
        self.send(Box::new(|_| Flow::Kill));
        self.join()
    }

    /// Waits for the end.
    pub(super) fn join(self) -> Ended {
        let deadline = long_enough();
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "no end; console: {:?}", self.console());
            std::thread::sleep(Duration::from_millis(1));
        }
        let (console, events, turns) = (self.console(), self.events(), self.turns.clone());
        let (exit, counters) = self.thread.join().expect("the machine's thread does not panic");
        let turns = std::mem::take(&mut *turns.lock().unwrap());
        let handlers = turns.into_iter().map(|(_, handler)| handler).collect();
        Ended { exit, events, console, counters, handlers }
    }
}

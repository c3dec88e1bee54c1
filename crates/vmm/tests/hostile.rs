//! Hostile guests on KVM: whatever one does to its devices, the specification's answer comes, its other devices and
//! a sibling machine in the same process go on, it ends when told to, and nothing is left of it. Alone in its
//! process, because it counts the process's own descriptors, threads and mappings.

mod census;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use census::census;
use devices::serial::ConsoleSink;
use hypervisor::Hypervisor;
use rustix::event::{EventfdFlags, eventfd};
use tiny_guest::{Attack, HOSTILE_DISK_START, HOSTILE_MEMORY_SIZE, TinyGuest};
use vm_model::{
    BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, MachineExit, MachineSpec,
    MemoryBacking, MemorySpec, SerialMode,
};
use vmm::{BuildOptions, Controller, Flow, InitialState, Machine, MachineEvent};

/// For what takes milliseconds on an idle host.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests to a machine whose guest rings doorbells without end.
const REQUESTS_DURING_STORM: u32 = 50;

#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no holder panics")).into_owned()
    }
}

impl ConsoleSink for Console {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
    }
}

type Request = Box<dyn FnOnce(&mut Machine) -> Flow + Send>;

/// Has the machine's thread do what a test asks for.
struct Remote {
    wake: Arc<OwnedFd>,
    requests: Receiver<Request>,
}

impl Controller for Remote {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn woken(&mut self, machine: &mut Machine) -> Flow {
        // Nothing to read is a wake that came for nothing.
        let _nothing = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(request) = self.requests.try_recv() {
            if request(machine) == Flow::Kill {
                return Flow::Kill;
            }
        }
        Flow::Continue
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn deadline_passed(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Continue
    }

    fn event(&mut self, _event: MachineEvent) {}
}

/// A machine on a thread of its own.
struct Guest {
    console: Console,
    wake: Arc<OwnedFd>,
    requests: Sender<Request>,
    thread: JoinHandle<MachineExit>,
}

impl Guest {
    fn start(hypervisor: &Hypervisor, guest: &TinyGuest) -> Self {
        let (console, spec, hypervisor) = (Console::default(), spec(guest), hypervisor.clone());
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("a descriptor");
        let wake = Arc::new(wake);
        let (requests, receiver) = channel();
        let mut remote = Remote { wake: wake.clone(), requests: receiver };
        let options = BuildOptions::new("hostile", Box::new(console.clone()));
        let thread = std::thread::spawn(move || {
            let mut machine = Machine::build(&hypervisor, spec, options).expect("it is built");
            machine.start(InitialState::Running).expect("it starts");
            let exit = machine.run(&mut remote);
            drop(machine.into_remains());
            exit
        });
        Self { console, wake, requests, thread }
    }

    fn send(&self, request: Request) {
        self.requests.send(request).expect("the machine's thread listens");
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).expect("an eventfd takes a one");
    }

    /// Has the machine's thread do something and waits for its answer.
    fn ask<T: Send + 'static>(&self, request: impl FnOnce(&mut Machine) -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        self.send(Box::new(move |machine| {
            let _gone = answer.send(request(machine));
            Flow::Continue
        }));
        answered.recv_timeout(PATIENCE).expect("the machine's thread answers")
    }

    fn wait_for_console(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.console.text().contains(text) {
            let alive = Instant::now() < deadline && !self.thread.is_finished();
            assert!(alive, "no {text:?} on the console: {:?}", self.console.text());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How it ended, and what it said.
    fn join(self) -> (MachineExit, String) {
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "no end; console: {:?}", self.console.text());
            std::thread::sleep(Duration::from_millis(1));
        }
        let exit = self.thread.join().expect("the machine's thread does not panic");
        (exit, self.console.text())
    }

    fn kill(self) -> MachineExit {
        self.send(Box::new(|_| Flow::Kill));
        self.join().0
    }
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("room for it");
    file
}

fn spec(guest: &TinyGuest) -> MachineSpec<OwnedFd> {
    let mut disk = vec![0; 8192];
    disk[..4].copy_from_slice(&HOSTILE_DISK_START);
    MachineSpec {
        uuid: uuid::Uuid::nil(),
        cpus: CpuSpec::default(),
        memory: MemorySpec {
            size: Bytes::new(HOSTILE_MEMORY_SIZE),
            backing: MemoryBacking::SharedMemfd,
            prefault: false,
        },
        boot: BootSpec { kernel: file(&guest.elf()).into(), initrd: None, cmdline: String::new() },
        disks: vec![DiskSpec {
            id: "root".into(),
            file: file(&disk).into(),
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
            serial: None,
            queue_size: 128,
            options: DiskOptions::default(),
        }],
        nics: Vec::new(),
        serial: SerialMode::Console,
        rng: true,
        services: Default::default(),
    }
}

/// What `attack` makes its guest say before the common end.
fn own_lines(attack: Attack) -> &'static str {
    match attack {
        // Both read the disk with the settings that they could not change.
        Attack::OddWidths => "read 00000000\ndata 6b736964\n",
        Attack::SettingsAfterDriverOk => {
            "read 00000000\ndata 6b736964\nsize 00000010\nenabled 00000001\ntable 00104000\n"
        }
        // No vector (virtio 1.2 §4.1.5.1.2.1).
        Attack::VectorsOutOfRange => "config 0000ffff\nqueue 0000ffff\nread 00000000\ndata 6b736964\n",
        // Nothing answers where the device was; memory and the other device, half set up, answer as ever.
        Attack::BarOntoMemory | Attack::BarOntoBar => {
            "old 000000ff\nmemory 12345678\nother 0000000b\nread 00000000\ndata 6b736964\n"
        }
        _ => "",
    }
}

/// The device's status after `attack` (virtio 1.2 §2.1).
fn status(attack: Attack) -> &'static str {
    match attack {
        Attack::ResetInFlight => "00000000",
        _ if attack.breaks_the_device() => "0000004f",
        _ => "0000000f",
    }
}

fn suffer(hypervisor: &Hypervisor, attack: Attack) {
    let guest = Guest::start(hypervisor, &TinyGuest::hostile(attack));
    let (exit, console) = guest.join();
    let (own, status) = (own_lines(attack), status(attack));
    let expected = format!("{own}status {status}\nread 00000000\ndata 6b736964\nentropy 00000010\n");
    assert_eq!((exit, console), (MachineExit::PoweredOff, expected), "after {attack:?}");
}

/// The machine's thread answers, pauses and resumes in the middle of a storm that never ends.
fn suffer_storm(hypervisor: &Hypervisor) {
    let guest = Guest::start(hypervisor, &TinyGuest::doorbell_storm());
    guest.wait_for_console("ready\n");
    for _ in 0..REQUESTS_DURING_STORM {
        guest.ask(|machine| machine.pause(Instant::now() + PATIENCE)).expect("it pauses");
        guest.ask(Machine::resume);
    }
    assert_eq!(guest.kill(), MachineExit::Killed);
}

#[test]
fn hostile_guests_hurt_themselves_alone() {
    if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|value| value == "1") {
        println!("SKIPPED: PROCURATOR_SKIP_KVM_TESTS=1");
        return;
    }
    let hypervisor =
        Hypervisor::open().expect("this test needs KVM, or PROCURATOR_SKIP_KVM_TESTS=1 to go without");
    let before = census();
    let sibling = Guest::start(&hypervisor, &TinyGuest::echo());
    sibling.wait_for_console("ready\n");
    let mut echoed = "ready\n".to_owned();
    for attack in Attack::ALL {
        suffer(&hypervisor, attack);
        assert_eq!(sibling.ask(|machine| machine.write_console(b"+")), 1);
        echoed.push('+');
        sibling.wait_for_console(&echoed);
    }
    suffer_storm(&hypervisor);
    assert_eq!(sibling.ask(|machine| machine.write_console(b"q")), 1);
    assert_eq!(sibling.join(), (MachineExit::PoweredOff, echoed));
    assert_eq!(census(), before, "[descriptors, threads, mappings of guest memory]");
}

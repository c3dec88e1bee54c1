//! Hostile guests on KVM: whatever one does to its devices, the specification's answer comes, its other devices and
//! a sibling machine in the same process go on meanwhile, it ends when told to, and nothing is left of it. Alone in its
//! process, because it counts the process's own descriptors, threads and mappings.

mod census;
mod interfaces;

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
use tempfile::TempDir;
use tiny_guest::{Attack, HOSTILE_DISK_START, HOSTILE_MEMORY_SIZE, Target, TinyGuest};
use vm_model::{
    BalloonSpec, BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, InitialState,
    MacAddress, MachineExit, MachineSpec, MemoryBacking, MemorySpec, NicOptions, NicSpec, SerialMode,
    VsockSpec,
};
use vmm::{BuildOptions, Controller, Flow, Machine, MachineEvent};

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
    fn start(hypervisor: &Hypervisor, spec: MachineSpec<OwnedFd>) -> Self {
        let (console, hypervisor) = (Console::default(), hypervisor.clone());
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
            direct_file: None,
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

/// A machine that goes on, whatever others do.
struct Sibling {
    guest: Guest,
    echoed: String,
}

impl Sibling {
    fn start(hypervisor: &Hypervisor) -> Self {
        let guest = Guest::start(hypervisor, spec(&TinyGuest::echo()));
        guest.wait_for_console("ready\n");
        Self { guest, echoed: "ready\n".to_owned() }
    }

    /// Its thread takes a byte, its guest reads that and answers.
    fn answer(&mut self) {
        assert_eq!(self.guest.ask(|machine| machine.write_console(b"+")), 1);
        self.echoed.push('+');
        self.guest.wait_for_console(&self.echoed);
    }

    fn end(self) {
        assert_eq!(self.guest.ask(|machine| machine.write_console(b"q")), 1);
        assert_eq!(self.guest.join(), (MachineExit::PoweredOff, self.echoed));
    }
}

/// What machines under attack are made of.
struct Bench {
    hypervisor: Hypervisor,
    /// Of no network; `None` where tests must do without root.
    tap: Option<OwnedFd>,
    sockets: TempDir,
}

impl Bench {
    /// A machine for a guest that attacks `target`; `None` where there can be none.
    fn spec(&self, target: Target, attack: Attack) -> Option<MachineSpec<OwnedFd>> {
        let mut spec = spec(&TinyGuest::hostile_to(target, attack));
        match target {
            Target::Block | Target::Entropy => {}
            Target::NetReceive | Target::NetTransmit | Target::NetControl => {
                spec.nics.push(nic(self.tap.as_ref()?.try_clone().expect("a descriptor")));
            }
            Target::Balloon => {
                let balloon = BalloonSpec { free_page_reporting: true, ..BalloonSpec::default() };
                spec.services.balloon = Some(balloon);
            }
            Target::Sockets => {
                let directory = File::open(self.sockets.path()).expect("it is there").into();
                spec.services.vsock = Some(VsockSpec { cid: 3, directory });
            }
            Target::Console => spec.services.console = true,
        }
        Some(spec)
    }
}

fn nic(tap: OwnedFd) -> NicSpec<OwnedFd> {
    NicSpec {
        id: "net0".into(),
        taps: vec![tap],
        mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        mtu: None,
        queue_size: 256,
        vhost: None,
        options: NicOptions::default(),
    }
}

/// What `attack` makes its guest say before the common end.
fn own_lines(target: Target, attack: Attack) -> String {
    let proof = target.proof();
    match attack {
        // Both use the device with the settings that they could not change.
        Attack::OddWidths => proof.to_owned(),
        Attack::SettingsAfterDriverOk => {
            let table = match target {
                Target::Block | Target::Entropy | Target::NetReceive | Target::Balloon => "00104000",
                Target::NetTransmit | Target::Sockets | Target::Console => "00107000",
                Target::NetControl => "0010a000",
            };
            format!("{proof}size 00000010\nenabled 00000001\ntable {table}\n")
        }
        // No vector (virtio 1.2 §4.1.5.1.2.1).
        Attack::VectorsOutOfRange => format!("config 0000ffff\nqueue 0000ffff\n{proof}"),
        // Nothing answers where the device was; memory and the other device, half set up, answer as ever.
        Attack::BarOntoMemory | Attack::BarOntoBar => {
            format!("old 000000ff\nmemory 12345678\nother 0000000b\n{proof}")
        }
        _ => String::new(),
    }
}

/// What the guest says once the attacked device was reset: it and the others work.
fn common_end(target: Target) -> String {
    let others = [Target::Block, Target::Entropy].into_iter().filter(|other| *other != target);
    std::iter::once(target).chain(others).map(Target::proof).collect()
}

/// The device's status after `attack` (virtio 1.2 §2.1).
fn status(attack: Attack) -> &'static str {
    match attack {
        Attack::ResetInFlight => "00000000",
        _ if attack.breaks_the_device() => "0000004f",
        _ => "0000000f",
    }
}

/// Has a guest for each target do `attack`, all at once, and checks what came of it. How often `sibling` answered
/// before the last of them ended.
fn suffer(bench: &Bench, attack: Attack, sibling: &mut Sibling) -> u32 {
    let targets = Target::ALL.into_iter().filter(|target| attack.fits(*target));
    let guests: Vec<_> = targets
        .filter_map(|target| Some((target, Guest::start(&bench.hypervisor, bench.spec(target, attack)?))))
        .collect();
    let mut answers = 0;
    while guests.iter().any(|(_, guest)| !guest.thread.is_finished()) {
        sibling.answer();
        answers += 1;
    }
    for (target, guest) in guests {
        let (own, status, end) = (own_lines(target, attack), status(attack), common_end(target));
        let expected = (MachineExit::PoweredOff, format!("{own}status {status}\n{end}"));
        assert_eq!(guest.join(), expected, "after {attack:?} on {target:?}");
    }
    answers
}

/// The machine's thread answers, pauses and resumes in the middle of a storm that never ends, and so does a sibling
/// while the storm goes on and while it is held.
fn suffer_storm(hypervisor: &Hypervisor, sibling: &mut Sibling) {
    let guest = Guest::start(hypervisor, spec(&TinyGuest::doorbell_storm()));
    guest.wait_for_console("ready\n");
    for _ in 0..REQUESTS_DURING_STORM {
        sibling.answer();
        guest.ask(|machine| machine.pause(Instant::now() + PATIENCE)).expect("it pauses");
        sibling.answer();
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
    let sockets = tempfile::tempdir().expect("a temporary directory");
    let bench = Bench { hypervisor, tap: interfaces::tap_of_no_network(), sockets };
    let before = census();
    let mut sibling = Sibling::start(&bench.hypervisor);
    let answers = Attack::ALL.map(|attack| suffer(&bench, attack, &mut sibling));
    // The machines under attack take longer to build than an answer takes to come.
    assert!(answers.iter().all(|count| *count > 0), "{answers:?} while attacks went on");
    suffer_storm(&bench.hypervisor, &mut sibling);
    sibling.end();
    assert_eq!(census(), before, "[descriptors, threads, mappings of guest memory]");
}

//! Machines leave nothing behind: descriptors, threads and mappings are counted around many lives. Alone in its
//! process, because it counts the process's own.

mod census;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use census::census;
use devices::serial::ConsoleSink;
use hypervisor::Hypervisor;
use tiny_guest::TinyGuest;
use vm_model::{
    BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, InitialState, MachineExit,
    MachineSpec, MemoryBacking, MemorySpec, SerialMode,
};
use vmm::{BuildOptions, Controller, Flow, Machine, MachineEvent};

struct Quiet;

impl ConsoleSink for Quiet {
    fn write(&mut self, _bytes: &[u8]) {}
}

/// Kills the guest at its first console byte if told so.
struct Watch {
    wake: OwnedFd,
    kill: bool,
    due: Option<Instant>,
}

impl Controller for Watch {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn woken(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Continue
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    fn deadline_passed(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Kill
    }

    fn event(&mut self, event: MachineEvent) {
        if self.kill && matches!(event, MachineEvent::FirstConsoleByte { .. }) {
            self.due = Some(Instant::now());
        }
    }
}

fn spec(guest: &TinyGuest, backing: MemoryBacking) -> MachineSpec<OwnedFd> {
    let mut kernel = tempfile::tempfile().expect("a temporary file");
    kernel.write_all(&guest.elf()).expect("room for a kernel");
    let disk = tempfile::tempfile().expect("a temporary file");
    disk.set_len(1 << 20).expect("room for a disk");
    MachineSpec {
        uuid: uuid::Uuid::nil(),
        cpus: CpuSpec::of(2),
        memory: MemorySpec { size: Bytes::from_mib(64), backing, prefault: false },
        boot: BootSpec { kernel: kernel.into(), initrd: None, cmdline: String::new() },
        disks: vec![DiskSpec {
            direct_file: None,
            id: "root".into(),
            file: disk.into(),
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

/// One life; `round` picks how it ends.
fn live(hypervisor: &Hypervisor, round: u32) {
    let guest = match round % 4 {
        0 => TinyGuest::hello("hello"),
        1 => TinyGuest::triple_fault(),
        2 => TinyGuest::spin(),
        _ => TinyGuest::idle(),
    };
    let backing =
        if round.is_multiple_of(2) { MemoryBacking::SharedMemfd } else { MemoryBacking::AnonymousMergeable };
    let options = BuildOptions::new("leaks", Box::new(Quiet));
    let mut machine = Machine::build(hypervisor, spec(&guest, backing), options).expect("it is built");
    if round % 8 == 7 {
        return;
    }
    machine.start(InitialState::Running).expect("it starts");
    if round % 8 == 6 {
        return;
    }
    let (wake, _other) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let mut watch = Watch { wake: wake.into(), kill: round % 4 >= 2, due: None };
    let exit = machine.run(&mut watch);
    let expected = match round % 4 {
        0 => MachineExit::PoweredOff,
        1 => MachineExit::TripleFault,
        _ => MachineExit::Killed,
    };
    assert_eq!(exit, expected);
    drop(machine.into_remains());
}

#[test]
fn fifty_lives_leave_nothing() {
    if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|value| value == "1") {
        println!("SKIPPED: PROCURATOR_SKIP_KVM_TESTS=1");
        return;
    }
    let hypervisor =
        Hypervisor::open().expect("this test needs KVM, or PROCURATOR_SKIP_KVM_TESTS=1 to go without");
    live(&hypervisor, 0);
    let before = census();
    for round in 0..50 {
        live(&hypervisor, round);
    }
    assert_eq!(census(), before, "[descriptors, threads, mappings of guest memory]");
}

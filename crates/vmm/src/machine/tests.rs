//! Whole machines on the host's KVM, running tiny guests.

mod diagnosis;
mod disk_trouble;
mod disks;
mod harness;
mod pausing;
mod processors;
mod services;

use std::time::{Duration, Instant};

use tiny_guest::TinyGuest;
use vm_model::{Bytes, HugePageSize, MachineExit, MemoryBacking, ResetSource};

use super::*;
use harness::{Guest, hypervisor, long_enough, run, spec};

#[test]
fn a_guest_speaks_and_powers_off() {
    let Some(hypervisor) = hypervisor() else { return };
    let ended = run(&hypervisor, spec(&TinyGuest::hello("hello from the guest\n")));
    assert_eq!(ended.exit, MachineExit::PoweredOff);
    assert_eq!(ended.console, "hello from the guest\n");
    let [MachineEvent::FirstEntry { at: entered }, MachineEvent::FirstConsoleByte { at: spoke }] =
        ended.events[..]
    else {
        panic!("unexpected events {:?}", ended.events)
    };
    assert!(entered < spoke);
    assert!(ended.counters.vcpus[0].exits > 20, "each byte is an exit");
    assert!(ended.counters.vcpus[0].cpu_time > Duration::ZERO);
    assert!(ended.counters.memory_resident.get() > 0);
}

#[test]
fn the_smallest_guests_stay_small_whatever_their_memory_lies_on() {
    let Some(hypervisor) = hypervisor() else { return };
    for backing in [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousHuge] {
        let mut spec = spec(&TinyGuest::hello("small\n"));
        spec.memory.backing = backing;
        let resident = run(&hypervisor, spec).counters.memory_resident.get();
        println!("{backing:?}: {} KiB", resident >> 10);
        assert!((1..1 << 20).contains(&resident), "{backing:?}: {resident} bytes");
    }
}

/// 64-bit code: writes the command line that `boot_params` in RSI points to, and powers off.
const ECHO_COMMAND_LINE: [u8; 30] = [
    0x8b, 0x9e, 0x28, 0x02, 0x00, 0x00, // mov 0x228(%rsi), %ebx
    0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx
    0x8a, 0x03, // mov (%rbx), %al
    0x48, 0xff, 0xc3, // inc %rbx; in 32-bit mode this would count EAX down
    0x84, 0xc0, // test %al, %al
    0x74, 0x03, // jz past the jump
    0xee, // out %al, %dx
    0xeb, 0xf4, // jmp to the load
    0x66, 0xba, 0x00, 0x06, // mov $0x600, %dx
    0xb0, 0x34, // mov $0x34, %al
    0xee, // out %al, %dx
    0xf4, // hlt
];

#[test]
fn an_elf_without_a_pvh_note_runs_in_64_bits() {
    let Some(hypervisor) = hypervisor() else { return };
    let kernel = crate::boot::tests::elf(1 << 24, &ECHO_COMMAND_LINE, 4096, &[]);
    let mut spec = harness::spec_of_kernel(&kernel);
    spec.boot.cmdline = "console=ttyS0 quiet".into();
    let ended = run(&hypervisor, spec);
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "console=ttyS0 quiet"));
}

#[test]
fn ways_to_reset_are_told_apart() {
    let Some(hypervisor) = hypervisor() else { return };
    for (guest, exit) in [
        (TinyGuest::acpi_reset(), MachineExit::Reset(ResetSource::Acpi)),
        (TinyGuest::keyboard_reset(), MachineExit::Reset(ResetSource::KeyboardController)),
        (TinyGuest::triple_fault(), MachineExit::TripleFault),
    ] {
        let ended = run(&hypervisor, spec(&guest));
        assert_eq!(ended.exit, exit);
        assert_eq!(ended.console, "ready\n");
    }
}

#[test]
fn a_guest_that_executes_a_devices_registers_is_at_fault() {
    let Some(hypervisor) = hypervisor() else { return };
    let ended = run(&hypervisor, spec(&TinyGuest::stray(tiny_guest::EVENT_REGISTER_ADDRESS)));
    assert_eq!(ended.console, "ready\n");
    let MachineExit::GuestFault(what) = ended.exit else { panic!("{:?}", ended.exit) };
    assert!(what.starts_with("executed what cannot be carried out"), "{what}");
    assert!(what.ends_with("vCPU 0 was at instruction 0xfec10000"), "{what}");
}

#[test]
fn a_spinning_guest_is_paused_resumed_and_killed() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::spin());
    spec.cpus.boot_vcpus = 2;
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    for _ in 0..20 {
        guest.ask(|machine| machine.pause(long_enough())).unwrap();
        guest.ask(|machine| machine.pause(long_enough())).unwrap();
        let parked = guest.counters().vcpus;
        std::thread::yield_now();
        assert_eq!(guest.counters().vcpus[0].exits, parked[0].exits, "a parked vCPU does not exit");
        let (send, resumed) = std::sync::mpsc::channel();
        guest.ask(move |machine| {
            machine.resume();
            send.send(machine.is_paused()).unwrap();
        });
        assert!(!resumed.recv().unwrap());
        guest.wait_until("the guest uses its CPU", |guest| {
            guest.counters().vcpus[0].cpu_time > parked[0].cpu_time
        });
    }
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn a_guest_can_start_paused() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::hello("x")), InitialState::Paused);
    guest.ask(|machine| assert!(machine.is_paused()));
    assert_eq!(guest.counters().vcpus[0].exits, 0);
    assert_eq!(guest.console(), "");
    guest.ask(Machine::resume);
    let ended = guest.join();
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "x"));
}

#[test]
fn an_idle_guest_obeys_a_kill() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::idle()), InitialState::Running);
    guest.wait_for_console("ready\n");
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn the_power_button_reaches_the_guest() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::power_button()), InitialState::Running);
    guest.wait_for_console("ready\n");
    guest.ask(|machine| machine.press_power_button());
    let ended = guest.join();
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "ready\nbye\n"));
}

#[test]
fn what_is_typed_reaches_the_guest() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::echo()), InitialState::Running);
    guest.wait_for_console("ready\n");
    guest.ask(|machine| machine.pause(long_enough())).unwrap();
    let text = b"0123456789".repeat(9);
    let chunk = text.clone();
    let taken = guest.ask(move |machine| machine.write_console(&chunk));
    assert_eq!(taken, 64, "a paused guest's port takes what its FIFO holds");
    guest.ask(Machine::resume);
    guest.wait_until("room for more", |guest| guest.events().contains(&MachineEvent::ConsoleRoom));
    let rest = text[taken..].to_vec();
    assert_eq!(guest.ask(move |machine| machine.write_console(&rest)), 26);
    let all = format!("ready\n{}", String::from_utf8(text).unwrap());
    guest.wait_until("the echo", |guest| guest.console() == all);
    assert_eq!(guest.ask(|machine| machine.write_console(b"q")), 1);
    assert_eq!(guest.join().exit, MachineExit::PoweredOff);
}

#[test]
fn memory_around_the_hole_is_told_to_the_guest() {
    let Some(hypervisor) = hypervisor() else { return };
    const MIB: u64 = 1 << 20;
    for (size, highest) in [
        (2_970 * MIB, "memory 0000000000100000 00000000b9900000 01"),
        (3_072 * MIB, "memory 0000000000100000 00000000bff00000 01"),
        (3_174 * MIB, "memory 0000000100000000 0000000006600000 01"),
        (5_120 * MIB, "memory 0000000100000000 0000000080000000 01"),
    ] {
        for backing in [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousMergeable] {
            let mut spec = spec(&TinyGuest::boot_information());
            spec.memory.size = Bytes::new(size);
            spec.memory.backing = backing;
            spec.boot.cmdline = "console=ttyS0 quiet".into();
            let ended = run(&hypervisor, spec);
            assert_eq!(ended.exit, MachineExit::PoweredOff);
            assert!(ended.console.contains("command line console=ttyS0 quiet\n"), "{}", ended.console);
            assert!(ended.console.contains("rsdp RSD PTR"), "{}", ended.console);
            assert!(ended.console.contains(highest), "{highest:?} is not in {}", ended.console);
            assert!(ended.counters.memory_resident < Bytes::from_mib(8), "memory is allocated lazily");
        }
    }
}

#[test]
fn two_machines_run_at_once() {
    let Some(hypervisor) = hypervisor() else { return };
    let first = Guest::start(&hypervisor, spec(&TinyGuest::power_button()), InitialState::Running);
    let second = Guest::start(&hypervisor, spec(&TinyGuest::spin()), InitialState::Running);
    first.wait_for_console("ready\n");
    second.wait_for_console("ready\n");
    assert_eq!(second.kill().exit, MachineExit::Killed);
    first.ask(|machine| machine.press_power_button());
    assert_eq!(first.join().exit, MachineExit::PoweredOff);
}

#[test]
fn a_panicking_vcpu_fails_its_machine_alone() {
    let Some(hypervisor) = hypervisor() else { return };
    let bystander = Guest::start(&hypervisor, spec(&TinyGuest::echo()), InitialState::Running);
    let mut spec = spec(&TinyGuest::spin());
    spec.cpus.boot_vcpus = 2;
    let guest =
        Guest::start_with(&hypervisor, spec, InitialState::Running, |options| options.panicking_vcpu(1));
    let MachineExit::Failed(text) = guest.join().exit else { panic!("a panic is a failure") };
    assert_eq!(text, "the thread of vCPU 1 of test panicked: injected by a test");
    bystander.wait_for_console("ready\n");
    bystander.ask(|machine| machine.write_console(b"q"));
    assert_eq!(bystander.join().exit, MachineExit::PoweredOff);
}

#[test]
fn a_controllers_deadline_ends_a_machine() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::idle()), InitialState::Running);
    guest.kill_at(Instant::now() + Duration::from_millis(30));
    assert_eq!(guest.join().exit, MachineExit::Killed);
}

#[test]
fn a_machine_that_never_started_can_be_killed_or_dropped() {
    let Some(hypervisor) = hypervisor() else { return };
    drop(harness::build(&hypervisor, spec(&TinyGuest::idle())).unwrap());
    let mut machine = harness::build(&hypervisor, spec(&TinyGuest::idle())).unwrap();
    assert_eq!(machine.pause(long_enough()), Err(PauseError::NotRunning));
    machine.start(InitialState::Running).unwrap();
    assert!(matches!(machine.start(InitialState::Running), Err(StartError::Started)));
    let handle = machine.counters_handle();
    assert_eq!(handle.read().unwrap().memory_size, Bytes::from_mib(64));
    let remains = machine.into_remains();
    assert!(handle.read().is_some());
    drop(remains);
    assert_eq!(handle.read(), None, "a handle keeps nothing alive");
}

#[test]
fn no_interrupt_gets_past_the_apics() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::hello("x"));
    spec.cpus.boot_vcpus = 2;
    let machine = harness::build(&hypervisor, spec).unwrap();
    let Phase::Built { vcpus } = &machine.phase else { panic!("not built") };
    for vcpu in vcpus {
        let registers = vcpu.lapic().unwrap().regs;
        // Bit 16 of LINT0, which KVM otherwise leaves open to a PIC that nobody programs.
        assert_eq!(registers[0x352] & 1, 1, "vCPU {}", vcpu.index());
    }
}

#[test]
fn impossible_descriptions_are_refused_with_figures() {
    let Some(hypervisor) = hypervisor() else { return };
    let refusal = |change: &dyn Fn(&mut harness::Spec)| {
        let mut spec = spec(&TinyGuest::idle());
        change(&mut spec);
        harness::build(&hypervisor, spec).unwrap_err()
    };
    let error = refusal(&|spec| spec.cpus.boot_vcpus = 0);
    assert!(error.to_string().starts_with("0 vCPUs are not possible"), "{error}");
    let error = refusal(&|spec| {
        spec.cpus.max_phys_bits = Some(34);
        spec.memory.size = Bytes::new(16 << 30);
    });
    assert_eq!(
        error.to_string(),
        "memory that ends at 0x43fffffff is beyond the guest's 34 physical address bits"
    );
    let error = refusal(&|spec| spec.memory.size = Bytes::new(1000));
    assert_eq!(error.failure_kind(), vm_model::FailureKind::Artifact);
    let error = refusal(&|spec| {
        spec.memory.backing = MemoryBacking::HugePages(HugePageSize::TwoMib);
        spec.services.balloon = Some(vm_model::BalloonSpec {
            size: Bytes::new(0),
            deflate_on_oom: false,
            free_page_reporting: false,
        });
    });
    assert!(matches!(error, BuildError::Memory(crate::MemoryError::BalloonOnHugePages)), "{error:?}");
    let error = refusal(&|spec| spec.boot.kernel = std::fs::File::open("/").unwrap().into());
    assert!(matches!(error, BuildError::Load(crate::LoadError::NotAFile { .. })));
}

#[test]
fn a_disk_is_read_written_and_flushed() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut content = vec![0; 8192];
    content[..16].copy_from_slice(b"the first sector");
    let file = harness::file(&content);
    let mut spec = spec(&TinyGuest::block());
    spec.disks.push(harness::disk("root", file.try_clone().unwrap()));
    let ended = run(&hypervisor, spec);
    assert_eq!(ended.exit, MachineExit::PoweredOff);
    let hex: String = b"the first sector".iter().map(|byte| format!("{byte:02x}")).collect();
    for line in ["capacity 00000010\n", "read status 00\n", &format!("sector 0 {hex}\n"), "flush status 00\n"]
    {
        assert!(ended.console.contains(line), "{line:?} is not in {:?}", ended.console);
    }
    let mut written = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut written, 512).unwrap();
    assert_ne!(written, [0; 16], "sector 1 was written");
    let [disk] = &ended.counters.disks[..] else { panic!("one disk is counted") };
    assert_eq!((disk.id.as_str(), disk.read_operations, disk.write_operations), ("root", 1, 1));
    assert_eq!((disk.written_bytes, disk.flush_operations, disk.errors), (512, 1, 0));
    let turns = &ended.handlers;
    assert!(turns.iter().any(|handler| handler == "queue 0 of root"), "turns are told by device: {turns:?}");
}

#[test]
fn the_guest_gets_entropy() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::entropy());
    spec.rng = true;
    let ended = run(&hypervisor, spec);
    assert_eq!(ended.exit, MachineExit::PoweredOff);
    let bytes = ended.console.strip_prefix("entropy 10 ").expect("sixteen bytes were given");
    assert_ne!(bytes.trim_end(), "0".repeat(32));
}

#[test]
fn what_is_no_disk_and_no_tap_is_refused_by_name() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec_with_disk = spec(&TinyGuest::idle());
    spec_with_disk.disks.push(harness::disk("data", std::fs::File::open("/").unwrap()));
    let error = harness::build(&hypervisor, spec_with_disk).unwrap_err();
    assert_eq!(error.to_string(), "device data could not be made");
    let mut spec_with_nic = spec(&TinyGuest::idle());
    spec_with_nic.nics.push(harness::nic("net0", harness::file(b"").into()));
    let error = harness::build(&hypervisor, spec_with_nic).unwrap_err();
    assert_eq!(error.to_string(), "device net0 could not be made");
    let mut crowded = spec(&TinyGuest::idle());
    crowded
        .disks
        .extend((0..32).map(|number| harness::disk(&format!("d{number}"), harness::file(&[0; 512]))));
    let error = harness::build(&hypervisor, crowded).unwrap_err();
    assert_eq!(error.to_string(), "32 PCI devices are too many: at most 31 are accepted");
}

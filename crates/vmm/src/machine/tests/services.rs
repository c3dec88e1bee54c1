//! The devices by which guest and host help each other, in whole machines.

use vm_model::{BalloonSpec, GuestPanic, SerialMode, VsockSpec};

use super::*;

#[test]
fn a_panic_is_reported_while_the_machine_goes_on() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::panic("last words\n")), InitialState::Running);
    let told = MachineEvent::GuestPanicked(GuestPanic::Panicked);
    guest.wait_until("the report", |guest| guest.events().contains(&told));
    assert_eq!(guest.console(), "last words\n");
    let ended = guest.kill();
    assert_eq!(ended.exit, MachineExit::Killed);
    assert_eq!(ended.events.iter().filter(|event| **event == told).count(), 1);
}

#[test]
fn without_the_device_nothing_is_reported() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::panic("last words\n"));
    spec.services.panic_device = false;
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("last words\n");
    let ended = guest.kill();
    assert!(!ended.events.iter().any(|event| matches!(event, MachineEvent::GuestPanicked(_))));
}

#[test]
fn a_balloon_takes_the_page_that_the_guest_gives_up() {
    let Some(hypervisor) = hypervisor() else { return };
    for backing in [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousHuge] {
        let mut spec = spec(&TinyGuest::balloon());
        spec.memory.backing = backing;
        spec.services.balloon = Some(BalloonSpec { free_page_reporting: true, ..BalloonSpec::default() });
        let guest = Guest::start(&hypervisor, spec, InitialState::Running);
        guest.wait_for_console("ready\n");
        let refused = guest.ask(|machine| machine.set_balloon(Bytes::from_mib(65))).unwrap_err();
        assert!(refused.to_string().contains("68157440"), "{refused}");
        guest.ask(|machine| machine.set_balloon(Bytes::new(4096))).unwrap();
        let ended = guest.join();
        assert_eq!(ended.console, "ready\nballoon 00 aa\n");
        assert_eq!(ended.counters.balloon.map(|balloon| balloon.target), Some(Bytes::new(4096)));
    }
}

#[test]
fn a_balloon_or_link_that_is_not_there_cannot_be_set() {
    let Some(hypervisor) = hypervisor() else { return };
    let machine = harness::build(&hypervisor, spec(&TinyGuest::idle())).unwrap();
    assert_eq!(machine.set_balloon(Bytes::new(0)), Err(BalloonChangeError::Missing));
    let missing = LinkChangeError::Missing { nic: "net0".to_owned() };
    assert_eq!(machine.set_link("net0", LinkState::Down), Err(missing.clone()));
    assert_eq!(machine.announce("net0"), Err(missing));
}

#[test]
fn host_programs_find_a_machines_sockets_while_it_is_there() {
    let Some(hypervisor) = hypervisor() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(&TinyGuest::idle());
    let opened = std::fs::File::open(directory.path()).unwrap();
    spec.services.vsock = Some(VsockSpec { cid: 3, directory: opened.into() });
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    let path = directory.path().join(devices::virtio::vsock::SOCKET_NAME);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    // This guest has no driver: the machine hangs up.
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
    guest.kill();
    assert!(!path.exists());
}

#[test]
fn a_virtio_console_is_recorded_resized_and_typed_at() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::console());
    spec.serial = SerialMode::Null;
    spec.services.console = true;
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    let long = guest.ask(|machine| machine.write_console(&[b'x'; 5000]));
    assert_eq!(long, 4096, "input is bounded");
    guest.ask(|machine| machine.resize_console(0x180, 24)).unwrap();
    let ended = guest.join();
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "ready\nxxxx"));
    assert!(ended.events.iter().any(|event| matches!(event, MachineEvent::FirstConsoleByte { .. })));
}

#[test]
fn what_is_typed_goes_to_the_serial_port_where_both_are_recorded() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::echo());
    spec.services.console = true;
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    assert_eq!(guest.ask(|machine| machine.write_console(b"q")), 1);
    assert_eq!(guest.join().exit, MachineExit::PoweredOff);
}

#[test]
fn a_console_that_is_not_there_cannot_be_resized() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut machine = harness::build(&hypervisor, spec(&TinyGuest::idle())).unwrap();
    assert_eq!(machine.resize_console(80, 24), Err(NoConsole));
}

/// An identifier as the guest says it.
fn said(id: GenerationId) -> String {
    let words = id.bytes();
    let words = words.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    words.map(|word| format!("id {word:08x}\n")).collect()
}

#[test]
fn each_machine_has_its_own_generation_and_hears_of_another_one() {
    let Some(hypervisor) = hypervisor() else { return };
    let address = u32::try_from(layout::GENERATION_ID).unwrap();
    let mut first_ones = Vec::new();
    for _ in 0..2 {
        let guest = Guest::start(&hypervisor, spec(&TinyGuest::generation(address)), InitialState::Running);
        guest.wait_for_console("ready\n");
        let id = guest.ask(Machine::change_generation).unwrap();
        let ended = guest.join();
        assert_eq!(ended.exit, MachineExit::PoweredOff);
        let (before, after) = ended.console.split_once("ready\n").unwrap();
        assert_eq!(after, said(id));
        assert_ne!(before, after);
        assert_ne!(before, "id 00000000\n".repeat(4));
        first_ones.push(before.to_owned());
    }
    assert_ne!(first_ones[0], first_ones[1]);
}

#[test]
fn a_guest_that_lets_its_watchdog_expire_is_reset() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::watchdog());
    spec.services.watchdog = true;
    let ended = run(&hypervisor, spec);
    assert_eq!(ended.exit, MachineExit::Reset(ResetSource::Watchdog));
    assert_eq!(ended.console, "ready\n");
}

#[test]
fn a_watchdog_does_not_count_the_time_of_a_pause() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::watchdog());
    spec.services.watchdog = true;
    let guest = Guest::start(&hypervisor, spec, InitialState::Paused);
    guest.ask(Machine::resume);
    guest.wait_for_console("ready\n");
    guest.ask(|machine| machine.pause(long_enough())).unwrap();
    // Longer than the guest has.
    std::thread::sleep(Duration::from_millis(1500));
    guest.ask(|machine| assert!(machine.is_paused()));
    guest.ask(Machine::resume);
    assert_eq!(guest.join().exit, MachineExit::Reset(ResetSource::Watchdog));
}

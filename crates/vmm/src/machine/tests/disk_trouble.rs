//! Guests that write to a file system without room.

use std::fs::File;
use std::os::unix::fs::FileExt;

use test_host::{SmallFileSystem, without_io_uring};
use tiny_guest::{CHURN_REQUESTS, churned};
use vm_model::{DiskTrouble, OnIoError};

use super::*;

const DISK_BYTES: u64 = 1 << 20;

/// A guest that writes, reads back and compares, on a disk that has no room.
struct Churning {
    guest: Guest,
    host: SmallFileSystem,
    disk: File,
}

impl Churning {
    fn start(hypervisor: &hypervisor::Hypervisor) -> Self {
        let host = SmallFileSystem::new(2 * DISK_BYTES);
        let disk = host.sparse_file("disk", DISK_BYTES);
        host.fill();
        let mut spec = spec(&TinyGuest::churn());
        spec.disks.push(harness::disk("root", disk.try_clone().unwrap()));
        let guest = Guest::start(hypervisor, spec, InitialState::Running);
        guest.wait_for_console("ready\n");
        let this = Self { guest, host, disk };
        this.guest.wait_until("trouble", |guest| guest.ask(|machine| machine.disk_trouble().is_some()));
        this
    }

    fn wait_until_well(&self) {
        self.guest.wait_until("no trouble", |guest| guest.ask(|machine| machine.disk_trouble().is_none()));
    }

    /// The guest ends by itself and found nothing wrong.
    fn ends_well(self) {
        assert_eq!(self.guest.ask(|machine| machine.write_console(b"q")), 1);
        let ended = self.guest.join();
        assert_eq!(ended.exit, MachineExit::PoweredOff);
        let rounds =
            ended.console.strip_prefix("ready\nrounds ").unwrap_or_else(|| panic!("{}", ended.console));
        let rounds = u32::from_str_radix(rounds.trim_end(), 16).unwrap();
        let mut content = vec![0; CHURN_REQUESTS as usize * 512];
        self.disk.read_exact_at(&mut content, 0).unwrap();
        assert!(content == churned(rounds), "the disk is not as the last round left it");
        let [disk] = &ended.counters.disks[..] else { panic!("{:?}", ended.counters) };
        let requests = u64::from(rounds * CHURN_REQUESTS);
        assert_eq!((disk.read_operations, disk.write_operations), (requests, requests), "each once");
        assert_eq!((disk.troubles, disk.errors), (1, 0));
        assert!(disk.kept_requests >= 1 && disk.trouble_time > Duration::ZERO, "{disk:?}");
        let told = |event: &MachineEvent| match event {
            MachineEvent::DiskTrouble(trouble) => Some(trouble.is_some()),
            _ => None,
        };
        let told: Vec<_> = ended.events.iter().filter_map(told).collect();
        assert_eq!((told.first(), told.last()), (Some(&true), Some(&false)), "{told:?}");
    }
}

fn a_guest_without_room_waits_and_goes_on() {
    let Some(hypervisor) = hypervisor() else { return };
    let churning = Churning::start(&hypervisor);
    let told = churning.guest.ask(|machine| machine.disk_trouble().cloned());
    let problem = "No space left on device (os error 28)".to_owned();
    assert_eq!(told, Some(DiskTrouble { disk: "root".to_owned(), problem }));
    // Its vCPU spins while it waits for its requests, but not while it is parked.
    let busy = || churning.guest.counters().vcpus[0].cpu_time;
    let before = busy();
    std::thread::sleep(Duration::from_millis(300));
    assert!(busy() - before < Duration::from_millis(100), "its vCPU ran while its disk was in trouble");
    assert!(churning.guest.ask(|machine| !machine.is_paused()));
    churning.host.make_room();
    churning.wait_until_well();
    churning.ends_well();
}

#[test]
fn a_guest_without_room_waits_and_goes_on_when_there_is_some() {
    a_guest_without_room_waits_and_goes_on();
}

#[test]
fn so_does_one_on_a_host_without_io_uring() {
    without_io_uring(a_guest_without_room_waits_and_goes_on);
}

#[test]
fn a_machine_that_was_paused_meanwhile_stays_paused() {
    let Some(hypervisor) = hypervisor() else { return };
    let churning = Churning::start(&hypervisor);
    churning.guest.ask(|machine| machine.pause(long_enough())).unwrap();
    churning.host.make_room();
    churning.wait_until_well();
    let busy = || churning.guest.counters().vcpus[0].cpu_time;
    let before = busy();
    std::thread::sleep(Duration::from_millis(300));
    assert!(busy() - before < Duration::from_millis(100), "it was told to pause");
    assert!(churning.guest.ask(|machine| machine.is_paused()));
    churning.guest.ask(Machine::resume);
    churning.ends_well();
}

#[test]
fn resuming_a_machine_in_trouble_tries_again_at_once() {
    let Some(hypervisor) = hypervisor() else { return };
    let churning = Churning::start(&hypervisor);
    churning.guest.ask(|machine| machine.pause(long_enough())).unwrap();
    churning.guest.ask(Machine::resume);
    assert!(churning.guest.ask(|machine| machine.disk_trouble().is_some() && !machine.is_paused()));
    // By now the next try is seconds away.
    std::thread::sleep(Duration::from_secs(4));
    churning.host.make_room();
    let asked = Instant::now();
    churning.guest.ask(Machine::resume);
    churning.wait_until_well();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    churning.ends_well();
}

#[test]
fn a_machine_in_trouble_is_killed_like_any_other() {
    let Some(hypervisor) = hypervisor() else { return };
    let churning = Churning::start(&hypervisor);
    let asked = Instant::now();
    let ended = churning.guest.kill();
    assert_eq!(ended.exit, MachineExit::Killed);
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited for the disk: {:?}", asked.elapsed());
}

#[test]
fn a_guest_is_told_where_its_disk_is_to_report() {
    let Some(hypervisor) = hypervisor() else { return };
    let host = SmallFileSystem::new(DISK_BYTES);
    let disk = host.sparse_file("disk", DISK_BYTES);
    host.fill();
    let mut spec = spec(&TinyGuest::churn());
    let mut root = harness::disk("root", disk);
    root.options.on_io_error = OnIoError::Report;
    spec.disks.push(root);
    let ended = run(&hypervisor, spec);
    assert!(ended.console.starts_with("ready\nwrong"), "{}", ended.console);
    assert!(!ended.events.iter().any(|event| matches!(event, MachineEvent::DiskTrouble(_))));
    assert_eq!(ended.counters.disks[0].kept_requests, 0);
}

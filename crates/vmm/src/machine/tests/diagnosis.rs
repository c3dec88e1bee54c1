//! Looking at vCPUs, and interrupting them, in whole machines.

use std::sync::mpsc::{Receiver, channel};

use devices::serial::ConsoleSink;
use vm_model::{VcpuActivity, VcpuDump, VcpuRegisters, VcpuReport};

use super::*;
use crate::DiagnosisError;

/// Where the guests' code lies.
const CODE: std::ops::Range<u64> = 0x10_0000..0x12_0000;
/// Control register 0 in protected mode without paging.
const PROTECTED: u64 = 1;
const PAGING: u64 = 1 << 31;

fn dump(guest: &Guest) -> Vec<VcpuDump> {
    guest.ask(|machine| machine.dump_vcpus(long_enough())).unwrap()
}

fn registers(dump: &VcpuDump) -> VcpuRegisters {
    match &dump.report {
        VcpuReport::Registers(registers) => *registers,
        other => panic!("vCPU {}: {other:?}", dump.index),
    }
}

#[test]
fn every_vcpu_says_where_it_is_and_goes_on() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::spin());
    spec.cpus.boot_vcpus = 2;
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    for _ in 0..20 {
        let dumps = dump(&guest);
        assert_eq!(dumps.iter().map(|dump| dump.index).collect::<Vec<_>>(), [0, 1]);
        let first = registers(&dumps[0]);
        assert_eq!(first.activity, VcpuActivity::Running);
        assert!(CODE.contains(&first.rip) && CODE.contains(&first.rsp), "{first:x?}");
        assert_eq!((first.cr0 & PROTECTED, first.cr0 & PAGING, first.efer), (PROTECTED, 0, 0));
        assert_eq!(registers(&dumps[1]).activity, VcpuActivity::WaitingForStart);
    }
    let before = guest.counters().vcpus[0].cpu_time;
    guest.wait_until("the guest goes on", |guest| guest.counters().vcpus[0].cpu_time > before);
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn a_halted_vcpu_is_told_apart_and_a_parked_one_can_be_looked_at() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::idle()), InitialState::Running);
    guest.wait_for_console("ready\n");
    guest.wait_until("the halt", |guest| registers(&dump(guest)[0]).activity == VcpuActivity::Halted);
    let halted = registers(&dump(&guest)[0]);
    guest.ask(|machine| machine.pause(long_enough())).unwrap();
    assert_eq!(registers(&dump(&guest)[0]), halted);
    guest.ask(|machine| assert!(machine.is_paused()));
    guest.ask(Machine::resume);
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn an_nmi_reaches_a_guest_that_takes_no_interrupts() {
    let Some(hypervisor) = hypervisor() else { return };
    for initial in [InitialState::Running, InitialState::Paused] {
        let guest = Guest::start(&hypervisor, spec(&TinyGuest::nmi()), InitialState::Running);
        guest.wait_for_console("ready\n");
        if initial == InitialState::Paused {
            guest.ask(|machine| machine.pause(long_enough())).unwrap();
        }
        guest.ask(|machine| machine.inject_nmi(long_enough())).unwrap();
        if initial == InitialState::Paused {
            assert_eq!(guest.console(), "ready\n");
            guest.ask(Machine::resume);
        }
        let ended = guest.join();
        assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "ready\nnmi\n"));
    }
}

/// Keeps who writes to it until the other end is dropped.
struct Stuck(Receiver<()>);

impl ConsoleSink for Stuck {
    fn write(&mut self, _bytes: &[u8]) {
        let _ = self.0.recv();
    }
}

#[test]
fn a_vcpu_that_does_not_answer_is_reported_as_such() {
    let Some(hypervisor) = hypervisor() else { return };
    let (release, held) = channel::<()>();
    let change = move |_| BuildOptions::new("test", Box::new(Stuck(held)));
    let guest = Guest::start_with(&hypervisor, spec(&TinyGuest::spin()), InitialState::Running, change);
    guest.wait_until("the first entry", |guest| !guest.events().is_empty());
    guest.wait_until("silence", |guest| {
        let soon = Instant::now() + Duration::from_millis(50);
        let dumps = guest.ask(move |machine| machine.dump_vcpus(soon)).unwrap();
        dumps == [VcpuDump { index: 0, report: VcpuReport::Silent }]
    });
    let soon = Instant::now() + Duration::from_millis(50);
    let refused = guest.ask(move |machine| machine.inject_nmi(soon)).unwrap_err();
    assert!(matches!(refused, DiagnosisError::Silent { index: 0 }), "{refused}");
    drop(release);
    let activity = registers(&dump(&guest)[0]).activity;
    assert_eq!(activity, VcpuActivity::Running);
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn a_slow_turn_is_told_with_the_handler_that_was_slow() {
    let Some(hypervisor) = hypervisor() else { return };
    let guest = Guest::start(&hypervisor, spec(&TinyGuest::idle()), InitialState::Running);
    guest.wait_for_console("ready\n");
    guest.ask(|_| std::thread::sleep(harness::SLOW));
    guest.wait_until("the turn's end", |guest| guest.slow_turns() == ["controller"]);
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

#[test]
fn a_machine_that_does_not_run_has_nothing_to_look_at() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut machine = harness::build(&hypervisor, spec(&TinyGuest::idle())).unwrap();
    assert!(matches!(machine.dump_vcpus(long_enough()), Err(DiagnosisError::NotRunning)));
}

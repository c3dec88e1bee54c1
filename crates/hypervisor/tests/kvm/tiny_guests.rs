//! The tiny guests on a machine that is hardly more than this crate: memory, one vCPU and a serial port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hypervisor::{Exit, Vcpu, Vm};
use tiny_guest::{ENTRY_ADDRESS, EVENT_REGISTER_ADDRESS, TinyGuest};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::harness::{enter_at, enter_protected_mode, kvm_test, memory, open};

const LINE_STATUS_READY: u8 = 0x20;
const LINE_STATUS_DATA: u8 = 0x01;

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// A write to a port that stops the machine.
    Port(u16, u8),
    TripleFault,
}

/// What a guest is given and what it did.
#[derive(Default)]
struct Machine {
    input: std::collections::VecDeque<u8>,
    events: u32,
    output: Vec<u8>,
}

impl Machine {
    fn run(&mut self, guest: &TinyGuest) -> End {
        let (_vm, mut vcpu) = load(guest);
        let _binding = vcpu.bind_to_current_thread().unwrap();
        loop {
            let exit = vcpu.run().unwrap();
            if let Some(end) = self.handle(exit) {
                return end;
            }
        }
    }

    fn handle(&mut self, exit: Exit<'_>) -> Option<End> {
        match exit {
            Exit::IoIn { port: 0x3fd, data } => {
                data[0] = LINE_STATUS_READY | if self.input.is_empty() { 0 } else { LINE_STATUS_DATA };
            }
            Exit::IoIn { port: 0x3f8, data } => data[0] = self.input.pop_front().unwrap(),
            Exit::IoOut { port: 0x3f8, data } => self.output.extend_from_slice(data),
            Exit::IoOut { port: port @ (0x600 | 0x64), data } => return Some(End::Port(port, data[0])),
            Exit::MmioRead { address, data } if address == u64::from(EVENT_REGISTER_ADDRESS) => {
                data.copy_from_slice(&self.events.to_le_bytes());
                // Nobody presses it at first.
                self.events = 1;
            }
            Exit::Interrupted => {}
            Exit::Shutdown => return Some(End::TripleFault),
            other => panic!("an unexpected exit after {:?}: {other:?}", self.said()),
        }
        None
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

fn load(guest: &TinyGuest) -> (Vm, Vcpu) {
    let memory = memory(2 << 20);
    memory.write_slice(&guest.image(), MemoryRegionAddress(u64::from(ENTRY_ADDRESS))).unwrap();
    let vm = open().create_vm().unwrap();
    vm.add_memory(Arc::clone(&memory)).unwrap();
    vm.create_irqchip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    enter_at(&vcpu, u64::from(ENTRY_ADDRESS));
    enter_protected_mode(&vcpu);
    (vm, vcpu)
}

fn run(guest: &TinyGuest) -> (String, End) {
    let mut machine = Machine::default();
    let end = machine.run(guest);
    (machine.said(), end)
}

const POWER_OFF: End = End::Port(0x600, 0x34);

kvm_test!(hello_says_its_message_and_powers_off, {
    assert_eq!(run(&TinyGuest::hello("hello, host\n")), ("hello, host\n".to_owned(), POWER_OFF));
});

kvm_test!(chatter_repeats_itself, {
    assert_eq!(run(&TinyGuest::chatter("ab", 3)), ("ababab".to_owned(), POWER_OFF));
    assert_eq!(run(&TinyGuest::chatter("ab", 0)), (String::new(), POWER_OFF));
});

kvm_test!(resets_are_told_apart, {
    let ready = || "ready\n".to_owned();
    assert_eq!(run(&TinyGuest::acpi_reset()), (ready(), End::Port(0x600, 1)));
    assert_eq!(run(&TinyGuest::keyboard_reset()), (ready(), End::Port(0x64, 0xfe)));
    assert_eq!(run(&TinyGuest::triple_fault()), (ready(), End::TripleFault));
});

kvm_test!(the_power_button_is_obeyed, {
    assert_eq!(run(&TinyGuest::power_button()), ("ready\nbye\n".to_owned(), POWER_OFF));
});

kvm_test!(echo_returns_what_it_is_sent, {
    let mut machine = Machine { input: b"hiq".iter().copied().collect(), ..Machine::default() };
    assert_eq!(machine.run(&TinyGuest::echo()), POWER_OFF);
    assert_eq!(machine.said(), "ready\nhi");
});

kvm_test!(a_relay_writes_what_it_is_sent_to_its_port, {
    let mut machine = Machine { input: [0xfe].into(), ..Machine::default() };
    assert_eq!(machine.run(&TinyGuest::relay(0x64)), End::Port(0x64, 0xfe));
    assert_eq!(machine.said(), "ready\n");
});

kvm_test!(an_idle_and_a_spinning_guest_are_broken_out_of_by_a_kick, {
    for guest in [TinyGuest::idle(), TinyGuest::spin()] {
        let (_vm, mut vcpu) = load(&guest);
        let _binding = vcpu.bind_to_current_thread().unwrap();
        let mut machine = Machine::default();
        while machine.said() != "ready\n" {
            assert_eq!(machine.handle(vcpu.run().unwrap()), None);
        }
        let kicker = vcpu.kicker();
        let thread = std::thread::spawn(move || kicker.kick());
        assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
        thread.join().unwrap();
    }
});

kvm_test!(a_second_processor_is_started_by_the_first, {
    let (vm, mut boot) = load(&TinyGuest::processors(2));
    let mut second = vm.create_vcpu(1).unwrap();
    let kicker = second.kicker();
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let _binding = second.bind_to_current_thread().unwrap();
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(second.run().unwrap(), Exit::Interrupted);
            }
        })
    };
    let _binding = boot.bind_to_current_thread().unwrap();
    let mut machine = Machine::default();
    let end = loop {
        if let Some(end) = machine.handle(boot.run().unwrap()) {
            break end;
        }
    };
    // No CPUID was set here, so that both read zeros.
    assert_eq!((machine.said(), end), ("processors 02\nids 00\n".to_owned(), POWER_OFF));
    stop.store(true, Ordering::Relaxed);
    kicker.kick();
    thread.join().unwrap();
});

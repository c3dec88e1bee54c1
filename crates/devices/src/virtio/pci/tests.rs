//! Tests of the transport as a driver meets it: through the PCI root, by capabilities.

mod fuzz;
mod machine;

use std::sync::atomic::Ordering;

use vm_memory::GuestAddress;

use self::machine::{BAR_BASE, Cap, Machine, QUEUE_SIZE, REJECTED_FEATURE, TEST_FEATURE};
use super::{BAR_BYTES, VirtioPciError};
use crate::ports::MsiMessage;
use crate::virtio::queue::testing::Buffer;

const VERSION_1: u64 = 1 << 32;
const NO_VECTOR: u32 = 0xffff;

fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_1000, data: 0x20 + u32::from(vector) }
}

#[test]
fn a_driver_finds_sets_up_and_uses_the_device() {
    let machine = Machine::new();
    machine.enable_msix(&[message(0), message(1), message(2)]);
    let mut queues = machine.start(VERSION_1 | TEST_FEATURE);
    assert_eq!(machine.status(), 15);
    assert_eq!(machine.device_log(), ["activate 0x100000001 [true, true]"]);
    let rung = machine.bells_rung();
    assert_eq!(rung, [0, 1], "buffers that are there already get served");

    let head = queues[1].add_chain(&[Buffer::Writable(GuestAddress(0x8000), 16)]);
    assert!(machine.doorbells.ring(BAR_BASE + machine.notify_offset(1)));
    assert_eq!(machine.bells_rung(), [1]);
    machine.device().handle_doorbell(1);
    assert_eq!(machine.bells_rung(), [0u16; 0], "handling silences the bell");
    assert_eq!(queues[1].drain_used(), [(head, 16)]);
    assert_eq!(machine.messages.take(), [(2, message(2))]);
    assert_eq!(machine.read(Cap::Isr, 0, 1), 0, "with MSI-X a queue sets no bit");
}

#[test]
fn a_stock_driver_accepts_the_capabilities() {
    let machine = Machine::new();
    assert_eq!(machine.config_dword(0x00), 0x1044_1af4);
    assert!(machine.config_dword(0x08) & 0xff >= 1, "a modern device");
    assert_eq!(machine.config_dword(0x3c) >> 8 & 0xff, 0, "no interrupt pin");
    let length = |kind| machine.config_dword(machine.capability(kind) + 12);
    assert!(length(Cap::Common) >= 56, "all registers of virtio 1.0");
    assert!(length(Cap::Isr) >= 1);
    assert!(length(Cap::Device) >= 4);
    assert_eq!(machine.part(Cap::Common) % 4, 0);
    let last = machine.notify_offset(1) - u64::from(machine.part(Cap::Notify));
    assert!(u64::from(length(Cap::Notify)) >= last + 2, "the last queue's address is in the capability");
    for kind in [Cap::Common, Cap::Notify, Cap::Isr, Cap::Device] {
        let at = machine.capability(kind);
        let bytes = if kind == Cap::Notify { 20 } else { 16 };
        assert_eq!(machine.config_dword(at) >> 16 & 0xff, bytes, "{kind:?}");
        assert!(u64::from(machine.part(kind) + length(kind)) <= BAR_BYTES);
    }
    assert_eq!(machine.config_dword(machine.capability(Cap::Window)) >> 16 & 0xff, 20);
}

#[test]
fn without_a_doorbell_the_register_write_rings() {
    let machine = Machine::new();
    machine.start(VERSION_1);
    machine.bells_rung();
    machine.write(Cap::Notify, 4, 2, 1);
    assert_eq!(machine.bells_rung(), [1]);
    machine.write(Cap::Notify, 8, 4, 0);
    machine.write(Cap::Notify, 0xffc, 4, 0);
    assert_eq!(machine.bells_rung(), [0u16; 0], "there are two queues");
    assert_eq!(machine.read(Cap::Notify, 0, 2), 0);
}

#[test]
fn a_driver_without_msix_polls_the_isr() {
    let machine = Machine::new();
    let mut queues = machine.start(VERSION_1);
    queues[0].add_chain(&[Buffer::Writable(GuestAddress(0x8000), 16)]);
    machine.device().handle_doorbell(0);
    assert_eq!(machine.config_dword(0x04) >> 16 & 8, 8, "as a wired interrupt would be");
    assert_eq!((machine.read(Cap::Isr, 0, 1), machine.read(Cap::Isr, 0, 1)), (1, 0), "read to clear");
    assert_eq!(machine.config_dword(0x04) >> 16 & 8, 0);
    machine.device().announce_config_change();
    assert_eq!(machine.read(Cap::Isr, 0, 4), 2);
    assert_eq!(machine.messages.take(), []);
}

#[test]
fn features_are_judged_and_frozen() {
    let machine = Machine::new();
    assert_eq!(machine.offered_features(), VERSION_1 | TEST_FEATURE, "nothing queues cannot do is offered");
    machine.negotiate(VERSION_1 | REJECTED_FEATURE);
    assert_eq!(machine.status(), 3, "not offered");
    machine.negotiate(TEST_FEATURE);
    assert_eq!(machine.status(), 3, "legacy drivers are not served");
    machine.negotiate(VERSION_1);
    assert_eq!(machine.status(), 11);
    machine.write_driver_features(VERSION_1 | TEST_FEATURE);
    machine.write(Cap::Common, 8, 4, 0);
    assert_eq!(machine.read(Cap::Common, 12, 4), 0, "frozen");
    machine.write(Cap::Common, 0, 4, 2);
    assert_eq!(machine.read(Cap::Common, 4, 4), 0, "there are no further features");
}

#[test]
fn queue_registers_are_checked_and_frozen() {
    let machine = Machine::new();
    assert_eq!(machine.read(Cap::Common, 18, 2), 2);
    machine.write(Cap::Common, 22, 2, 2);
    assert_eq!(machine.read(Cap::Common, 24, 2), 0, "no such queue");
    assert_eq!(machine.read(Cap::Common, 28, 2), 0);
    machine.write(Cap::Common, 28, 2, 1);

    machine.write(Cap::Common, 22, 2, 0);
    for (wrong, why) in [(0, "zero"), (3, "no power of two"), (32, "above the maximum")] {
        machine.write(Cap::Common, 24, 2, wrong);
        assert_eq!(machine.read(Cap::Common, 24, 2), u32::from(QUEUE_SIZE), "{why}");
    }
    machine.write(Cap::Common, 24, 2, 8);
    assert_eq!(machine.read(Cap::Common, 24, 2), 8);
    machine.write(Cap::Common, 32, 4, 0x5000);
    machine.write(Cap::Common, 36, 4, 1);
    machine.write(Cap::Common, 28, 2, 1);
    machine.write(Cap::Common, 28, 2, 0);
    machine.write(Cap::Common, 32, 4, 0x6000);
    machine.write(Cap::Common, 24, 2, 16);
    assert_eq!(machine.read(Cap::Common, 32, 4) | machine.read(Cap::Common, 36, 4) << 16, 0x1_5000);
    assert_eq!((machine.read(Cap::Common, 28, 2), machine.read(Cap::Common, 24, 2)), (1, 8), "frozen");
    machine.write(Cap::Common, 22, 2, 1);
    assert_eq!(machine.read(Cap::Common, 30, 2), 1, "a notification address of its own");
}

#[test]
fn vectors_stay_live_and_bad_ones_read_back_as_none() {
    let machine = Machine::new();
    machine.enable_msix(&[message(0), message(1), message(2)]);
    let mut queues = machine.start(VERSION_1);
    machine.write(Cap::Common, 22, 2, 1);
    machine.write(Cap::Common, 26, 2, 3);
    assert_eq!(machine.read(Cap::Common, 26, 2), NO_VECTOR);
    queues[1].add_chain(&[Buffer::Writable(GuestAddress(0x8000), 16)]);
    machine.device().handle_doorbell(1);
    assert_eq!(machine.messages.take(), []);
    machine.write(Cap::Common, 26, 2, 0);
    assert_eq!(machine.read(Cap::Common, 26, 2), 0);
    queues[1].add_chain(&[Buffer::Writable(GuestAddress(0x8000), 16)]);
    machine.device().handle_doorbell(1);
    assert_eq!(machine.messages.take(), [(0, message(0))]);
    machine.write(Cap::Common, 16, 2, 0x1234);
    assert_eq!(machine.read(Cap::Common, 16, 2), NO_VECTOR);
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_recovers_by_it() {
    let machine = Machine::new();
    machine.enable_msix(&[message(0), message(1), message(2)]);
    let mut queues = machine.start(VERSION_1);
    machine.bells_rung();
    queues[0].set_available_index(1000);
    machine.device().handle_doorbell(0);
    assert_eq!(machine.status(), 15 | 64);
    assert_eq!(machine.messages.take(), [(0, message(0))], "a configuration interrupt");
    assert_eq!(machine.read(Cap::Isr, 0, 1), 2);
    assert_eq!(machine.device().breakages(), 1);
    machine.device().kick_all();
    machine.device().handle_doorbell(0);
    assert_eq!(machine.bells_rung(), [0u16; 0]);
    assert_eq!(machine.device().breakages(), 1);

    machine.write(Cap::Common, 20, 1, 0);
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.read(Cap::Common, 16, 2), NO_VECTOR);
    let mut queues = machine.start(VERSION_1);
    queues[0].add_chain(&[Buffer::Writable(GuestAddress(0x8000), 16)]);
    machine.device().handle_doorbell(0);
    assert_eq!((queues[0].drain_used().len(), machine.status()), (1, 15));
}

#[test]
fn impossible_queues_and_refusing_devices_need_a_reset() {
    let machine = Machine::new();
    machine.negotiate(VERSION_1);
    machine.write(Cap::Common, 22, 2, 1);
    machine.write(Cap::Common, 32, 4, 0xffff_fff0);
    machine.write(Cap::Common, 28, 2, 1);
    machine.write(Cap::Common, 20, 1, 15);
    assert_eq!(machine.status(), 15 | 64);
    assert_eq!(machine.device_log(), [""; 0], "the device never saw it");

    machine.write(Cap::Common, 20, 1, 0);
    machine.negotiate(VERSION_1);
    machine.write(Cap::Common, 20, 1, 15);
    assert_eq!(machine.status(), 15 | 64, "the device refuses to run without its first queue");
    assert_eq!(machine.device().breakages(), 2);
}

#[test]
fn the_device_configuration_has_a_window_and_a_generation() {
    let machine = Machine::new();
    assert_eq!(machine.read(Cap::Device, 0, 4), 0x6665_6463);
    machine.write(Cap::Device, 1, 1, 0x21);
    assert_eq!(machine.read(Cap::Device, 0, 4), 0x6665_2163);
    assert_eq!(machine.read(Cap::Device, 0x100, 4), 0);
    let generation = machine.read(Cap::Common, 21, 1);
    machine.device().announce_config_change();
    assert_ne!(machine.read(Cap::Common, 21, 1), generation);
    assert_eq!(machine.read(Cap::Isr, 0, 1), 0, "no driver to tell");
}

#[test]
fn the_bar_can_be_reached_through_configuration_space() {
    let machine = Machine::new();
    let window = machine.capability(Cap::Window);
    let access = |offset: u32, width: u32| {
        machine.write_config(window + 8, &offset.to_le_bytes());
        machine.write_config(window + 12, &width.to_le_bytes());
    };
    access(machine.part(Cap::Common) + 18, 2);
    assert_eq!(machine.config_dword(window + 16) & 0xffff, 2, "num_queues");
    access(machine.part(Cap::Common) + 20, 1);
    machine.write_config(window + 16, &[1]);
    assert_eq!(machine.status(), 1);
    for (offset, width) in [(0, 3), (1, 2), (0x4000, 4), (0xffff_fffc, 4), (0, 0)] {
        access(offset, width);
        machine.write_config(window + 16, &[0; 4]);
        machine.config_dword(window + 16);
        assert_eq!(machine.status(), 1, "{width} bytes at {offset:#x}");
    }
}

#[test]
fn doorbells_follow_the_bar() {
    let machine = Machine::new();
    let at = |base: u64| vec![base + machine.notify_offset(0), base + machine.notify_offset(1)];
    assert_eq!(machine.doorbells.addresses(), at(BAR_BASE));
    machine.write_config(0x10, &0xd000_0000u32.to_le_bytes());
    assert_eq!(machine.doorbells.addresses(), at(0xd000_0000));
    machine.write_config(0x10, &u32::MAX.to_le_bytes());
    assert_eq!(machine.doorbells.addresses(), [0u64; 0]);
    machine.write_config(0x10, &0xc000_0000u32.to_le_bytes());
    machine.write_config(0x04, &[0]);
    assert_eq!(machine.doorbells.addresses(), [0u64; 0]);
}

#[test]
fn resets_and_pauses_reach_the_device() {
    let machine = Machine::new();
    machine.start(VERSION_1);
    machine.device().reset();
    machine.device().reset();
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.device_log(), ["activate 0x100000000 [true, true]", "reset", "reset"]);
    machine.start(VERSION_1);
    machine.bells_rung();
    assert!(machine.device().drain(std::time::Instant::now()));
    machine.device().kick_all();
    assert_eq!(machine.bells_rung(), [0, 1]);
}

#[test]
fn a_reset_is_over_when_io_in_flight_has_ended() {
    let machine = Machine::new();
    machine.start(VERSION_1);
    machine.bells_rung();
    machine.busy.store(true, Ordering::Relaxed);
    machine.write(Cap::Common, 20, 1, 0);
    assert_eq!(machine.status(), 15, "the driver is to wait (virtio 1.2 §2.4.1)");
    assert!(!machine.device().is_running());
    machine.write(Cap::Common, 20, 1, 0);
    machine.write(Cap::Common, 20, 1, 1);
    machine.write(Cap::Common, 12, 4, 1);
    machine.device().kick_all();
    assert_eq!(machine.bells_rung(), [0_u16; 0]);
    assert_eq!(
        machine.device().common_config().driver_features,
        VERSION_1,
        "nothing can be set up meanwhile"
    );
    machine.busy.store(false, Ordering::Relaxed);
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.device_log(), ["activate 0x100000000 [true, true]", "reset"]);
    machine.start(VERSION_1);
    assert!(machine.device().is_running());
}

#[test]
fn a_driver_that_does_not_wait_for_a_reset_finds_it_over_if_it_is() {
    let machine = Machine::new();
    machine.start(VERSION_1);
    machine.busy.store(true, Ordering::Relaxed);
    machine.write(Cap::Common, 20, 1, 0);
    machine.busy.store(false, Ordering::Relaxed);
    machine.write(Cap::Common, 20, 1, 1);
    assert_eq!(machine.status(), 1);
}

#[test]
fn what_cannot_be_a_device_is_refused() {
    let refused =
        |sizes: &'static [u16], vectors, base| machine::build(sizes, vectors, base).err().expect("refused");
    assert!(matches!(refused(&[], 1, 0), VirtioPciError::QueueCount { count: 0 }));
    assert!(matches!(refused(&[0; 1025], 1, 0), VirtioPciError::QueueCount { count: 1025 }));
    assert!(matches!(refused(&[8, 12], 1, 0), VirtioPciError::QueueSize { queue: 1, size: 12 }));
    assert!(matches!(refused(&[8], 0, 0), VirtioPciError::Vectors(_)));
    assert!(matches!(refused(&[8], 1, 0x1000), VirtioPciError::BarBase { base: 0x1000 }));
    assert!(matches!(refused(&[8], 1, 1 << 32), VirtioPciError::BarBase { .. }));
    assert!(machine::build(&[8], 1, BAR_BYTES).is_ok());
}

//! The console under a driver.

use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::console::CONSOLE_INPUT_BYTES;
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, CountingInterrupt, DriverQueue, small_memory};

const MEMORY: usize = 4 << 20;
/// Where buffers lie.
const DATA: GuestAddress = GuestAddress(0x10000);
const EVENT_INDEX: RingFeatures = RingFeatures { event_index: true, indirect_descriptors: true };

#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<u8>>>);

impl Recorded {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ConsoleSink for Recorded {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

struct Bench {
    device: ConsoleDevice,
    output: Recorded,
    receive: DriverQueue,
    transmit: DriverQueue,
    interrupts: [Arc<CountingInterrupt>; 2],
}

fn in_reset() -> (ConsoleDevice, Recorded) {
    let output = Recorded::default();
    let config = ConsoleDeviceConfig { sink: Box::new(output.clone()), size: ConsoleSize::default() };
    (ConsoleDevice::new(config).unwrap(), output)
}

fn active_with(features: RingFeatures) -> Bench {
    let (mut device, output) = in_reset();
    let memory = small_memory(MEMORY);
    let receive = DriverQueue::new(Arc::clone(&memory), GuestAddress(0), 64);
    let transmit = DriverQueue::new(Arc::clone(&memory), GuestAddress(0x2000), 64);
    let ((receive_queue, receive_interrupt), (transmit_queue, transmit_interrupt)) =
        (receive.device_queue(features), transmit.device_queue(features));
    let queues = vec![Some(receive_queue), Some(transmit_queue)];
    device.activate(Activation { memory, features: SIZE, queues }).unwrap();
    Bench { device, output, receive, transmit, interrupts: [receive_interrupt, transmit_interrupt] }
}

fn active() -> Bench {
    active_with(RingFeatures::default())
}

impl Bench {
    /// Serves events until the device asks for no further turn: how many turns that took.
    fn settle(&mut self) -> u32 {
        let mut turns = 0;
        while self.device.go_on.take() {
            turns += 1;
            self.device.event(GO_ON);
        }
        turns
    }

    fn received(&self, address: GuestAddress, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.receive.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }
}

#[test]
fn what_is_transmitted_reaches_the_sink_in_order() {
    let mut bench = active_with(EVENT_INDEX);
    bench.transmit.memory.write_slice(b"hello, world\n", DATA).unwrap();
    let pieces = [Buffer::Readable(DATA, 7), Buffer::Readable(GuestAddress(DATA.0 + 7), 5)];
    let direct = bench.transmit.add_chain(&pieces);
    let rest = [Buffer::Readable(GuestAddress(DATA.0 + 12), 1)];
    let indirect = bench.transmit.add_indirect_chain(GuestAddress(0x8000), &rest);
    bench.device.doorbell(TRANSMIT);
    assert_eq!(bench.output.take(), b"hello, world\n");
    assert_eq!(bench.transmit.drain_used(), [(direct, 0), (indirect, 0)]);
    assert_eq!(bench.interrupts[1].take(), 1, "one interrupt for both");
    assert_eq!(bench.transmit.available_event(), 2, "a doorbell is asked for");
}

#[test]
fn a_chain_of_megabytes_takes_turns_and_is_given_back_after_the_last() {
    let mut bench = active();
    let length = 3 << 20;
    bench.transmit.memory.write_slice(&vec![b'x'; length], GuestAddress(0x10_0000)).unwrap();
    let head = bench.transmit.add_chain(&[Buffer::Readable(GuestAddress(0x10_0000), 3 << 20)]);
    bench.device.doorbell(TRANSMIT);
    assert_eq!(bench.output.take().len(), 64 << 10);
    assert_eq!(bench.transmit.drain_used(), []);
    let turns = bench.settle();
    assert_eq!(bench.output.take().len(), length - (64 << 10));
    assert_eq!(bench.transmit.drain_used(), [(head, 0)]);
    assert!((47..=49).contains(&turns), "{turns} turns");
}

#[test]
fn what_is_typed_fills_the_guests_buffers() {
    let mut bench = active();
    let handle = bench.device.handle();
    let first = bench.receive.add_chain(&[Buffer::Writable(DATA, 4)]);
    let second = bench.receive.add_chain(&[Buffer::Writable(GuestAddress(DATA.0 + 0x100), 64)]);
    bench.device.doorbell(RECEIVE);
    assert_eq!(bench.receive.drain_used(), [], "nothing was typed");
    assert_eq!(handle.enqueue(b"ls -l\n"), 6);
    bench.device.event(TYPED);
    assert_eq!(bench.receive.drain_used(), [(first, 4), (second, 2)]);
    assert_eq!(bench.received(DATA, 5), b"ls -\0");
    assert_eq!(bench.received(GuestAddress(DATA.0 + 0x100), 3), b"l\n\0");
    assert_eq!(bench.interrupts[0].take(), 1, "one interrupt for both");
}

#[test]
fn input_waits_for_a_driver_and_its_buffers_but_not_without_bound() {
    let (device, _output) = in_reset();
    let handle = device.handle();
    assert_eq!(handle.enqueue(&[b'a'; CONSOLE_INPUT_BYTES + 1]), CONSOLE_INPUT_BYTES);
    assert_eq!(handle.enqueue(b"b"), 0);

    let mut bench = active();
    let handle = bench.device.handle();
    assert_eq!(handle.enqueue(&[b'a'; CONSOLE_INPUT_BYTES + 1]), CONSOLE_INPUT_BYTES);
    bench.device.event(TYPED);
    assert!(!handle.take_room_event(), "the guest gave no buffer");
    bench.receive.add_chain(&[Buffer::Writable(DATA, 1024)]);
    bench.device.doorbell(RECEIVE);
    assert!(!handle.take_room_event(), "a quarter is no room worth telling of");
    bench.receive.add_chain(&[Buffer::Writable(DATA, 1024)]);
    bench.device.doorbell(RECEIVE);
    assert!(handle.take_room_event());
    assert_eq!(handle.enqueue(b"b"), 1);
    bench.receive.add_chain(&[Buffer::Writable(DATA, 1024)]);
    bench.device.doorbell(RECEIVE);
    assert!(!handle.take_room_event(), "everything offered since was taken");
}

#[test]
fn input_survives_a_reset() {
    let mut bench = active();
    let handle = bench.device.handle();
    handle.enqueue(b"x");
    bench.device.reset();
    bench.device.event(TYPED);
    assert!(handle.has_input());
}

#[test]
fn buffers_that_can_hold_nothing_end_a_turn() {
    let mut bench = active();
    let handle = bench.device.handle();
    handle.enqueue(b"x");
    for _ in 0..64 {
        bench.receive.add_chain(&[Buffer::Readable(DATA, 16)]);
    }
    bench.device.doorbell(RECEIVE);
    assert_eq!(bench.receive.drain_used().len(), 64);
    assert_eq!(bench.settle(), 1);
    assert!(handle.has_input(), "it waits for a buffer that holds it");
}

#[test]
fn the_size_is_in_the_configuration_space_and_read_only() {
    let (mut device, _output) = in_reset();
    let read = |device: &ConsoleDevice| {
        let mut bytes = [0xff; 6];
        device.read_config(0, &mut bytes);
        bytes
    };
    assert_eq!(read(&device), [80, 0, 24, 0, 0, 0]);
    device.write_config(0, &[1, 1, 1, 1]);
    device.handle().set_size(ConsoleSize { columns: 0x1234, rows: 0x5678 });
    assert_eq!(read(&device), [0x34, 0x12, 0x78, 0x56, 0, 0]);
    assert_eq!(device.handle().size(), ConsoleSize { columns: 0x1234, rows: 0x5678 });
}

#[test]
fn both_queues_are_needed_and_a_fault_breaks_until_reset() {
    let (mut device, _output) = in_reset();
    let memory = small_memory(MEMORY);
    let driver = DriverQueue::new(Arc::clone(&memory), GuestAddress(0), 64);
    let (queue, _interrupt) = driver.device_queue(RingFeatures::default());
    let activation = Activation { memory, features: 0, queues: vec![Some(queue), None] };
    assert!(matches!(device.activate(activation), Err(ActivateError::QueueDisabled { index: TRANSMIT })));

    let mut bench = active();
    bench.receive.add_chain(&[Buffer::Raw(u64::MAX, 16, 2)]);
    bench.device.handle().enqueue(b"x");
    bench.device.event(TYPED);
    assert!(bench.device.is_broken());
    bench.device.doorbell(TRANSMIT);
    bench.device.reset();
    assert!(!bench.device.is_broken());
    bench.device.event(GO_ON);
}

proptest! {
    /// Whatever is typed, in whatever pieces, and whatever buffers there are: the guest gets the bytes that were taken,
    /// in order and once.
    #[test]
    fn typed_bytes_arrive_once_and_in_order(
        steps in proptest::collection::vec((0_usize..700, 0_u32..700), 1..40),
    ) {
        let mut bench = active_with(EVENT_INDEX);
        let handle = bench.device.handle();
        let (mut typed, mut got, mut next) = (Vec::new(), Vec::new(), 0_u8);
        // Where the buffer of each head lies.
        let mut places = Vec::new();
        for (type_now, buffer) in steps {
            let bytes: Vec<u8> = (0..type_now).map(|_| { next = next.wrapping_add(1); next }).collect();
            let taken = handle.enqueue(&bytes);
            typed.extend_from_slice(&bytes[..taken]);
            bench.device.event(TYPED);
            if buffer > 0 {
                places.push(GuestAddress(DATA.0 + places.len() as u64 * 0x400));
                bench.receive.add_chain(&[Buffer::Writable(places[places.len() - 1], buffer)]);
                bench.device.doorbell(RECEIVE);
            }
            for (used, written) in bench.receive.drain_used() {
                got.extend(bench.received(places[usize::from(used)], written as usize));
            }
        }
        prop_assert!(!bench.device.is_broken());
        prop_assert_eq!(&typed[..got.len()], &got[..]);
        prop_assert!(typed.len() - got.len() <= CONSOLE_INPUT_BYTES);
    }
}

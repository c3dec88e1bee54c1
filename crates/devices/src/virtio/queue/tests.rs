//! Tests of queues: honest drivers, each broken rule, and arbitrary rings.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use super::testing::{Buffer, CountingInterrupt, DriverQueue, flag, small_memory};
use super::{ChainAccessError, Queue, QueueFault, QueueLayout, QueueSetupError, RingFeatures};

const MEMORY: usize = 0x10000;
const BASE: GuestAddress = GuestAddress(0x1000);
const PLAIN: RingFeatures = RingFeatures { event_index: false, indirect_descriptors: false };
const ALL: RingFeatures = RingFeatures { event_index: true, indirect_descriptors: true };

fn driver(size: u16) -> DriverQueue {
    DriverQueue::new(small_memory(MEMORY), BASE, size)
}

fn readable(address: u64, length: u32) -> Buffer {
    Buffer::Readable(GuestAddress(address), length)
}

fn writable(address: u64, length: u32) -> Buffer {
    Buffer::Writable(GuestAddress(address), length)
}

fn fault_of(buffers: &[Buffer]) -> QueueFault {
    let mut driver = driver(8);
    let (mut queue, _interrupt) = driver.device_queue(ALL);
    driver.add_chain(buffers);
    let fault = queue.pop().expect_err("the chain is malformed");
    assert_eq!(queue.pop().expect_err("faults stay"), fault);
    fault
}

#[test]
fn a_chain_is_popped_copied_completed_and_announced() {
    let mut driver = driver(8);
    let (mut queue, interrupt) = driver.device_queue(PLAIN);
    driver.memory.write_slice(b"hello, queue", GuestAddress(0x8000)).unwrap();
    let head = driver.add_chain(&[
        readable(0x8000, 5),
        readable(0x8005, 7),
        writable(0x9000, 4),
        writable(0xa000, 8),
    ]);
    let chain = queue.pop().unwrap().expect("one chain");
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (head, 12, 12));
    assert_eq!((chain.readable().len(), chain.writable().len()), (2, 2));

    let mut middle = [0; 6];
    chain.read_at(queue.memory(), 3, &mut middle).unwrap();
    assert_eq!(&middle, b"lo, qu");
    chain.write_at(queue.memory(), 2, b"abcdef").unwrap();
    let mut second = [0; 4];
    driver.memory.read_slice(&mut second, GuestAddress(0xa000)).unwrap();
    assert_eq!(&second, b"cdef");

    queue.complete(head, 8).unwrap();
    assert_eq!(interrupt.take(), 0, "completions are silent");
    queue.notify().unwrap();
    queue.notify().unwrap();
    assert_eq!(interrupt.take(), 1, "one interrupt a batch");
    assert_eq!(driver.drain_used(), [(head, 8)]);
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn accesses_past_a_chain_copy_nothing() {
    let mut driver = driver(8);
    let (mut queue, _interrupt) = driver.device_queue(PLAIN);
    driver.add_chain(&[readable(0x8000, 4), writable(0x9000, 4)]);
    let chain = queue.pop().unwrap().unwrap();
    let past = chain.read_at(queue.memory(), 1, &mut [0; 4]).unwrap_err();
    assert!(matches!(past, ChainAccessError::Range { offset: 1, length: 4, available: 4 }), "{past:?}");
    chain.write_at(queue.memory(), u64::MAX, &[1]).unwrap_err();
    chain.write_at(queue.memory(), 4, &[]).expect("nothing at the very end is in range");
}

#[test]
fn long_chains_and_indirect_ones_keep_every_segment_in_order() {
    let buffers: Vec<_> = (0..8).map(|n| readable(0x8000 + n * 16, 16)).collect();
    let mut driver = driver(8);
    let (mut queue, _interrupt) = driver.device_queue(ALL);
    driver.add_chain(&buffers);
    driver.add_indirect_chain(GuestAddress(0xb000), &buffers);
    for _ in 0..2 {
        let chain = queue.pop().unwrap().unwrap();
        let addresses: Vec<_> = chain.readable().iter().map(|segment| segment.address.raw_value()).collect();
        assert_eq!(addresses, (0..8).map(|n| 0x8000 + n * 16).collect::<Vec<_>>());
        assert_eq!(chain.readable_len(), 128);
    }
}

#[test]
fn rewinding_gives_the_same_chains_again() {
    let mut driver = driver(8);
    let (mut queue, _interrupt) = driver.device_queue(PLAIN);
    let heads = [0; 3].map(|_| driver.add_chain(&[writable(0x8000, 4)]));
    for head in heads {
        assert_eq!(queue.pop().unwrap().unwrap().head(), head);
    }
    queue.rewind(2);
    assert_eq!(queue.outstanding(), 1);
    assert_eq!(queue.pop().unwrap().unwrap().head(), heads[1]);
    queue.rewind(u16::MAX);
    assert_eq!(queue.pop().unwrap().unwrap().head(), heads[0]);
}

#[test]
fn interrupts_are_left_out_when_the_driver_says_so() {
    let mut driver = driver(8);
    let (mut queue, interrupt) = driver.device_queue(PLAIN);
    driver.set_available_flags(1);
    queue.complete(0, 0).unwrap();
    queue.notify().unwrap();
    assert_eq!(interrupt.take(), 0);
    driver.set_available_flags(0);
    queue.complete(1, 0).unwrap();
    queue.notify().unwrap();
    assert_eq!(interrupt.take(), 1);

    let (mut queue, interrupt) = driver.device_queue(ALL);
    driver.set_used_event(2);
    for expected in [0, 0, 1, 0] {
        queue.complete(0, 0).unwrap();
        queue.notify().unwrap();
        assert_eq!(interrupt.take(), expected, "only passing entry 2 interrupts");
    }
    assert_eq!(driver.drain_used().len(), 4);
}

#[test]
fn doorbells_are_suppressed_and_asked_for_again() {
    let mut driver = driver(8);
    let (mut queue, _interrupt) = driver.device_queue(PLAIN);
    queue.suppress_doorbells();
    assert_eq!(driver.used_flags(), 1);
    assert!(!queue.enable_doorbells().unwrap());
    assert_eq!(driver.used_flags(), 0);
    driver.add_chain(&[writable(0x8000, 4)]);
    assert!(queue.enable_doorbells().unwrap(), "a chain came in between");

    let (mut queue, _interrupt) = driver.device_queue(ALL);
    queue.pop().unwrap().unwrap();
    assert!(!queue.enable_doorbells().unwrap());
    assert_eq!(driver.available_event(), 1);
}

#[test]
fn chains_completed_together_interrupt_as_if_one_by_one() {
    let mut driver = DriverQueue::new(small_memory(0x10000), GuestAddress(0), 8);
    let (mut queue, interrupt) = driver.device_queue(ALL);
    // The entry waited for lies in the middle of each batch, the last one across the ring's end.
    for (batch, event) in [(3u16, 1u16), (3, 4), (3, 7)] {
        driver.set_used_event(event);
        let given: Vec<_> = (0..batch)
            .map(|written| {
                driver.add_chain(&[writable(0x8000, 16)]);
                (queue.pop().unwrap().unwrap().head(), u32::from(written))
            })
            .collect();
        queue.complete_together(&given).unwrap();
        queue.notify().unwrap();
        assert_eq!(driver.drain_used(), given);
        assert_eq!(interrupt.take(), 1);
        assert_eq!(queue.outstanding(), 0);
    }
    driver.set_used_event(20);
    driver.add_chain(&[writable(0x8000, 16)]);
    let head = queue.pop().unwrap().unwrap().head();
    assert!(queue.complete_together(&[(head, 1), (8, 1)]).is_err());
    queue.complete_together(&[]).unwrap();
    assert_eq!((driver.used_index(), queue.outstanding()), (9, 1), "all or none");
    queue.complete_together(&[(head, 1)]).unwrap();
    queue.notify().unwrap();
    assert_eq!(interrupt.take(), 0, "entry 20 is not reached");
}

#[test]
fn each_broken_rule_is_named() {
    let (next, write, indirect) =
        (flag(VRING_DESC_F_NEXT), flag(VRING_DESC_F_WRITE), flag(VRING_DESC_F_INDIRECT));
    assert_eq!(fault_of(&[readable(0x8000, 0)]), QueueFault::EmptyBuffer { head: 0, address: 0x8000 });
    assert_eq!(
        fault_of(&[readable(0xfff0, 17)]),
        QueueFault::OutsideMemory { head: 0, address: 0xfff0, length: 17 }
    );
    assert_eq!(
        fault_of(&[Buffer::Raw(u64::MAX, 2, write)]),
        QueueFault::OutsideMemory { head: 0, address: u64::MAX, length: 2 }
    );
    assert_eq!(
        fault_of(&[writable(0x8000, 4), readable(0x8000, 4)]),
        QueueFault::ReadableAfterWritable { head: 0 }
    );
    assert_eq!(
        fault_of(&[Buffer::Raw(0x8000, 24, indirect)]),
        QueueFault::IndirectLength { head: 0, length: 24 }
    );
    assert_eq!(
        fault_of(&[Buffer::Raw(0x8000, 0, indirect)]),
        QueueFault::IndirectLength { head: 0, length: 0 }
    );
    assert_eq!(
        fault_of(&[Buffer::Raw(0x8000, 16, indirect | next)]),
        QueueFault::IndirectPlacement { head: 0 }
    );
    assert_eq!(
        fault_of(&[Buffer::Raw(0x1_0000, 16, indirect)]),
        QueueFault::OutsideMemory { head: 0, address: 0x1_0000, length: 16 }
    );
}

#[test]
fn loops_end() {
    let driver_loop = |head: u16| {
        let mut driver = driver(4);
        let (mut queue, _interrupt) = driver.device_queue(PLAIN);
        for index in 0..4 {
            let next = (index + 1) % 4;
            driver.write_descriptor(index, Descriptor::new(0x8000, 4, flag(VRING_DESC_F_NEXT), next));
        }
        driver.publish(head);
        queue.pop().expect_err("a loop")
    };
    assert_eq!(driver_loop(2), QueueFault::ChainLength { head: 2, limit: 4 });
    assert_eq!(driver_loop(4), QueueFault::DescriptorIndex { index: 4, limit: 4 });
}

#[test]
fn nested_and_unagreed_indirect_tables_are_refused() {
    let mut driver = driver(4);
    let inner = [Buffer::Raw(0xc000, 16, flag(VRING_DESC_F_INDIRECT))];
    driver.add_indirect_chain(GuestAddress(0xb000), &inner);
    let (mut queue, _interrupt) = driver.device_queue(ALL);
    assert_eq!(queue.pop().unwrap_err(), QueueFault::IndirectPlacement { head: 0 });
    let (mut queue, _interrupt) = driver.device_queue(PLAIN);
    assert_eq!(queue.pop().unwrap_err(), QueueFault::IndirectPlacement { head: 0 });
}

#[test]
fn an_available_index_that_jumps_or_laps_is_a_fault() {
    let mut jumping = driver(4);
    let (mut queue, _interrupt) = jumping.device_queue(PLAIN);
    jumping.set_available_index(5);
    assert_eq!(queue.pop().unwrap_err(), QueueFault::AvailableIndex { available: 5, next: 0, size: 4 });

    let mut lapping = driver(4);
    let (mut queue, _interrupt) = lapping.device_queue(PLAIN);
    for _ in 0..4 {
        lapping.add_chain(&[writable(0x8000, 4)]);
        queue.pop().unwrap().unwrap();
    }
    lapping.add_chain(&[writable(0x8000, 4)]);
    assert_eq!(queue.pop().unwrap_err(), QueueFault::TooManyOutstanding { size: 4 });
}

#[test]
fn bad_layouts_are_refused() {
    let memory = small_memory(MEMORY);
    let good = driver(8).layout;
    let refused = |layout: QueueLayout| {
        let interrupt = Arc::new(CountingInterrupt::default());
        Queue::new(&layout, PLAIN, Arc::clone(&memory), interrupt).err().expect("the layout is bad")
    };
    assert_eq!(refused(QueueLayout { size: 3, ..good }), QueueSetupError::Size { size: 3 });
    assert_eq!(refused(QueueLayout { size: 0, ..good }), QueueSetupError::Size { size: 0 });
    let misaligned = refused(QueueLayout { used_ring: GuestAddress(0x2002), ..good });
    assert_eq!(misaligned, QueueSetupError::Alignment { part: "used ring", address: 0x2002, alignment: 4 });
    let outside = refused(QueueLayout { descriptor_table: GuestAddress(0xfff0), ..good });
    assert!(matches!(outside, QueueSetupError::OutsideMemory { part: "descriptor table", .. }), "{outside}");
    let wrapping = refused(QueueLayout { available_ring: GuestAddress(u64::MAX - 1), ..good });
    assert!(matches!(wrapping, QueueSetupError::OutsideMemory { part: "available ring", .. }), "{wrapping}");
}

/// Addresses near and past the ends of memory as well as inside.
fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![0..0x11000u64, Just(u64::MAX), u64::MAX - 64..u64::MAX, any::<u64>()]
}

fn any_length() -> impl Strategy<Value = u32> {
    prop_oneof![0..64u32, Just(0x1000), Just(u32::MAX), any::<u32>(), (0..64u32).prop_map(|n| n * 16)]
}

fn any_descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    (
        any_address(),
        any_length(),
        prop_oneof![4 => 0..8u16, 1 => any::<u16>()],
        prop_oneof![9 => 0..9u16, 1 => any::<u16>()],
    )
}

proptest! {
    /// Whatever stands in the table, the rings and memory behind an indirect table: no panic, an end after a
    /// bounded number of steps, and only segments in memory.
    #[test]
    fn arbitrary_rings_never_yield_a_bad_chain(
        table in proptest::collection::vec(any_descriptor(), 8),
        indirect in proptest::collection::vec(any_descriptor(), 8),
        heads in proptest::collection::vec(prop_oneof![9 => 0..8u16, 1 => any::<u16>()], 8),
        indices in proptest::collection::vec(prop_oneof![9 => 0..20u16, 1 => any::<u16>()], 1..6),
        event_index: bool,
        indirect_descriptors: bool,
    ) {
        let mut driver = driver(8);
        let features = RingFeatures { event_index, indirect_descriptors };
        let (mut queue, interrupt) = driver.device_queue(features);
        for (index, (address, length, flags, next)) in (0..).zip(table) {
            driver.write_descriptor(index, Descriptor::new(address, length, flags, next));
        }
        let nested = DriverQueue::new(Arc::clone(&driver.memory), GuestAddress(0x4000), 8);
        for (index, (address, length, flags, next)) in (0..).zip(indirect) {
            nested.write_descriptor(index, Descriptor::new(address, length, flags, next));
        }
        for head in heads {
            driver.publish(head);
        }
        for index in indices {
            driver.set_available_index(index);
            let mut steps = 0;
            while let Ok(Some(chain)) = queue.pop() {
                steps += 1;
                prop_assert!(steps <= 8, "more chains than descriptors");
                check_chain(&queue, &chain)?;
                if chain.head() % 2 == 0 {
                    queue.complete(chain.head(), 1).unwrap();
                    queue.notify().unwrap();
                }
            }
            prop_assert!(queue.outstanding() <= 8);
            queue.enable_doorbells().unwrap();
        }
        prop_assert!(interrupt.take() <= 48);
    }

    /// Copies through a chain agree with one flat buffer.
    #[test]
    fn chain_copies_match_a_flat_buffer(
        lengths in proptest::collection::vec(1..40u32, 1..8),
        offset in 0..400u64,
        data in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut driver = driver(8);
        let (mut queue, _interrupt) = driver.device_queue(PLAIN);
        let places: Vec<_> = (0u64..).zip(&lengths).map(|(n, length)| (0x8000 + n * 0x100, *length)).collect();
        driver.add_chain(&places.iter().map(|(address, length)| writable(*address, *length)).collect::<Vec<_>>());
        let chain = queue.pop().unwrap().unwrap();
        let total = lengths.iter().map(|length| *length as usize).sum::<usize>();
        let mut expected = vec![0; total];
        let start = usize::try_from(offset).unwrap();
        let fits = start + data.len() <= total;
        prop_assert_eq!(chain.write_at(queue.memory(), offset, &data).is_ok(), fits);
        if fits {
            expected[start..start + data.len()].copy_from_slice(&data);
        }
        let mut actual = Vec::new();
        for (address, length) in places {
            let mut piece = vec![0; length as usize];
            driver.memory.read_slice(&mut piece, GuestAddress(address)).unwrap();
            actual.extend(piece);
        }
        prop_assert_eq!(actual, expected);
    }
}

fn check_chain(queue: &Queue, chain: &super::Chain) -> Result<(), TestCaseError> {
    let segments = chain.readable().iter().chain(chain.writable());
    prop_assert!(segments.clone().count() <= usize::from(queue.size()));
    for segment in segments {
        prop_assert!(segment.length > 0);
        prop_assert!(queue.memory().check_range(segment.address, segment.length as usize));
    }
    let sum = |part: &[super::Segment]| part.iter().map(|segment| u64::from(segment.length)).sum::<u64>();
    prop_assert_eq!(sum(chain.readable()), chain.readable_len());
    prop_assert_eq!(sum(chain.writable()), chain.writable_len());
    Ok(())
}

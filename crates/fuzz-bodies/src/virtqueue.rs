//! A queue over rings and descriptors of any content (virtio 1.2 §2.7), changing while it is served.

use std::collections::VecDeque;
use std::sync::Arc;

use devices::memory::GuestMemory;
use devices::virtio::queue::{Chain, Queue, QueueInterrupt, QueueLayout, RingFeatures};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::driver::{Driver, any_address, memory};
use crate::input::Input;
use crate::ports::Line;

/// Guards what follows the used ring.
const CANARY: [u8; 16] = *b"not for a device";

/// Pops, completes, rewinds and notifies in any order, while descriptors and rings are written in between.
pub(crate) fn chains(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let memory = memory();
    let features = RingFeatures { event_index: input.flag(), indirect_descriptors: input.flag() };
    let driver = Driver::new(Arc::clone(&memory), 0x1000, 1 << input.below(9));
    let layout = if input.below(8) == 0 { any_layout(&mut input) } else { driver.layout() };
    let interrupt: Arc<dyn QueueInterrupt> = Arc::new(Line::new(false));
    let Ok(mut queue) = Queue::new(&layout, features, Arc::clone(&memory), interrupt) else { return };
    let canary = GuestAddress(driver.end());
    memory.write_slice(&CANARY, canary).expect("it is in memory");

    let mut taken = VecDeque::new();
    while !input.is_empty() {
        step(&mut input, &driver, &mut queue, &mut taken);
        assert_eq!(usize::from(queue.outstanding()), taken.len());
        assert!(queue.outstanding() <= queue.size());
    }
    if layout == driver.layout() {
        let mut found = [0; CANARY.len()];
        memory.read_slice(&mut found, canary).expect("it is in memory");
        assert_eq!(found, CANARY, "the device wrote past the used ring");
    }
}

fn any_layout(input: &mut Input<'_>) -> QueueLayout {
    QueueLayout {
        size: input.word(),
        descriptor_table: GuestAddress(any_address(input)),
        available_ring: GuestAddress(any_address(input)),
        used_ring: GuestAddress(any_address(input)),
    }
}

fn step(input: &mut Input<'_>, driver: &Driver, queue: &mut Queue, taken: &mut VecDeque<Chain>) {
    match input.below(10) {
        0..3 => driver.write_something(input),
        3 => driver.offer_something(input),
        4 | 5 => match queue.pop() {
            Ok(Some(chain)) => {
                check(&chain, queue);
                taken.push_back(chain);
            }
            Ok(None) => {}
            Err(fault) => assert_eq!(queue.pop().err(), Some(fault), "a fault stays"),
        },
        6 => {
            if let Some(chain) = taken.pop_front() {
                use_up(input, queue, &chain);
                let written = u32::try_from(chain.writable_len()).expect("checked by the queue");
                queue.complete(chain.head(), written).expect("a popped head");
            }
        }
        7 => {
            let together: Vec<_> = taken.drain(..).map(|chain| (chain.head(), 1)).collect();
            queue.complete_together(&together).expect("popped heads");
            queue.notify().expect("the rings are in memory");
        }
        8 => {
            let count = input.below(4).min(taken.len());
            taken.truncate(taken.len() - count);
            queue.rewind(u16::try_from(count).expect("below four"));
        }
        _ => {
            queue.suppress_doorbells();
            queue.enable_doorbells().expect("the rings are in memory");
            queue.notify().expect("the rings are in memory");
        }
    }
}

fn check(chain: &Chain, queue: &Queue) {
    let memory: &GuestMemory = queue.memory();
    let segments = chain.readable().iter().chain(chain.writable());
    assert!(segments.clone().count() <= usize::from(queue.size()));
    for segment in segments.clone() {
        let length = usize::try_from(segment.length).expect("32 bits fit a usize");
        assert!(length > 0 && memory.check_range(segment.address, length), "{segment:?}");
    }
    let sum: u64 = segments.map(|segment| u64::from(segment.length)).sum();
    assert_eq!(sum, chain.readable_len() + chain.writable_len());
    assert!(chain.head() < queue.size() && sum <= u64::from(u32::MAX));
}

/// Reads and writes where a device would, also past the end.
fn use_up(input: &mut Input<'_>, queue: &Queue, chain: &Chain) {
    let offset = u64::from(input.length());
    let mut data = [0; 32];
    let readable = chain.read_at(queue.memory(), offset, &mut data).is_ok();
    assert_eq!(readable, offset + 32 <= chain.readable_len());
    // Not into the rings themselves: what the driver says of them would be ours, and the canary is next to them.
    let rings = 0x1000..0x10000;
    if chain.writable().iter().all(|segment| segment.address.0 >= rings.end) {
        let writable = chain.write_at(queue.memory(), offset, &data).is_ok();
        assert_eq!(writable, offset + 32 <= chain.writable_len());
    }
}

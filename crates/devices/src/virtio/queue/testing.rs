//! The driver's side of a queue, and counting interrupts, for tests of queues and devices.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress};

use super::{Queue, QueueInterrupt, QueueLayout, RingFeatures};
use crate::memory::GuestMemory;
use crate::pci::InterruptSource;

/// Guest memory of `bytes` from address zero on.
pub fn small_memory(bytes: usize) -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).expect("a small mapping"))
}

/// Counts the interrupts of a queue, and keeps who delivers them in its stead.
#[derive(Default)]
pub struct CountingInterrupt {
    count: AtomicU32,
    sources: Mutex<Vec<Box<dyn InterruptSource>>>,
}

impl CountingInterrupt {
    /// How many there were since the last call.
    pub fn take(&self) -> u32 {
        self.count.swap(0, Ordering::SeqCst)
    }
}

impl QueueInterrupt for CountingInterrupt {
    fn trigger(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn delegate(&self, source: Box<dyn InterruptSource>) -> std::io::Result<()> {
        self.sources.lock().unwrap().push(source);
        Ok(())
    }
}

/// One buffer of a chain to be made available.
#[derive(Clone, Copy, Debug)]
pub enum Buffer {
    /// The device may read it.
    Readable(GuestAddress, u32),
    /// The device may write it.
    Writable(GuestAddress, u32),
    /// Raw address, length and flags (`NEXT` is added where a buffer follows), for malformed chains.
    Raw(u64, u32, u16),
}

impl Buffer {
    fn parts(self) -> (u64, u32, u16) {
        match self {
            Self::Readable(address, length) => (address.raw_value(), length, 0),
            Self::Writable(address, length) => (address.raw_value(), length, flag(VRING_DESC_F_WRITE)),
            Self::Raw(address, length, flags) => (address, length, flags),
        }
    }
}

/// A flag of a descriptor as the 16-bit word it is.
pub fn flag(flag: u32) -> u16 {
    u16::try_from(flag).expect("descriptor flags are 16 bits wide")
}

/// A driver that owns one queue: descriptors are handed out in order and never freed, which is enough for tests
/// that use no more than the queue's size (they wrap around after that).
pub struct DriverQueue {
    /// Where the queue lies.
    pub layout: QueueLayout,
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    next_descriptor: u16,
    available: u16,
    used_seen: u16,
}

impl DriverQueue {
    /// Lays a queue of `size` out from `base` on (16-byte aligned): table, available ring, used ring.
    pub fn new(memory: Arc<GuestMemory>, base: GuestAddress, size: u16) -> Self {
        let available_ring = base.unchecked_add(u64::from(size) * 16);
        let used_ring = available_ring.unchecked_add((6 + u64::from(size) * 2 + 3) & !3);
        let layout = QueueLayout { size, descriptor_table: base, available_ring, used_ring };
        Self { layout, memory, next_descriptor: 0, available: 0, used_seen: 0 }
    }

    /// The device's side of this queue.
    pub fn device_queue(&self, features: RingFeatures) -> (Queue, Arc<CountingInterrupt>) {
        let interrupt = Arc::new(CountingInterrupt::default());
        let counted: Arc<dyn QueueInterrupt> = interrupt.clone();
        let queue = Queue::new(&self.layout, features, Arc::clone(&self.memory), counted);
        (queue.expect("the layout is in memory"), interrupt)
    }

    /// The first guest address after the queue, page aligned: room for buffers.
    pub fn end(&self) -> GuestAddress {
        let bytes = 6 + u64::from(self.layout.size) * 8;
        GuestAddress((self.layout.used_ring.raw_value() + bytes + 0xfff) & !0xfff)
    }

    /// Writes descriptor `index` as it is.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        write_entry(&self.memory, self.layout.descriptor_table, index, descriptor);
    }

    /// Writes a chain into the table and makes it available; its head.
    pub fn add_chain(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            let next = (index + 1) % self.layout.size;
            let (address, length, flags) = buffer.parts();
            let more = if position + 1 < buffers.len() { flag(VRING_DESC_F_NEXT) } else { 0 };
            self.write_descriptor(index, Descriptor::new(address, length, flags | more, next));
            self.next_descriptor = next;
        }
        self.publish(head);
        head
    }

    /// Writes a chain into an indirect table at `table` and makes it available; its head.
    pub fn add_indirect_chain(&mut self, table: GuestAddress, buffers: &[Buffer]) -> u16 {
        for (position, buffer) in (0u16..).zip(buffers) {
            let (address, length, flags) = buffer.parts();
            let more = if usize::from(position) + 1 < buffers.len() { flag(VRING_DESC_F_NEXT) } else { 0 };
            let descriptor = Descriptor::new(address, length, flags | more, position + 1);
            write_entry(&self.memory, table, position, descriptor);
        }
        let length = u32::try_from(buffers.len() * 16).expect("a short table");
        self.add_chain(&[Buffer::Raw(table.raw_value(), length, flag(VRING_DESC_F_INDIRECT))])
    }

    /// Makes the chain at `head` available.
    pub fn publish(&mut self, head: u16) {
        let entry = 4 + u64::from(self.available % self.layout.size) * 2;
        self.store(self.layout.available_ring, entry, head);
        self.set_available_index(self.available.wrapping_add(1));
    }

    /// Writes the available index as it is.
    pub fn set_available_index(&mut self, index: u16) {
        self.available = index;
        self.store(self.layout.available_ring, 2, index);
    }

    /// Writes the available ring's flags (1: no interrupts wanted).
    pub fn set_available_flags(&self, flags: u16) {
        self.store(self.layout.available_ring, 0, flags);
    }

    /// With `EVENT_IDX`: asks for an interrupt when the used index passes `index`.
    pub fn set_used_event(&self, index: u16) {
        self.store(self.layout.available_ring, 4 + u64::from(self.layout.size) * 2, index);
    }

    /// With `EVENT_IDX`: the available index whose passing the device wants a doorbell for.
    pub fn available_event(&self) -> u16 {
        self.load(self.layout.used_ring, 4 + u64::from(self.layout.size) * 8)
    }

    /// The used ring's flags (1: no doorbells wanted).
    pub fn used_flags(&self) -> u16 {
        self.load(self.layout.used_ring, 0)
    }

    /// The used ring's index.
    pub fn used_index(&self) -> u16 {
        self.load(self.layout.used_ring, 2)
    }

    /// The next completion not seen yet: head and bytes written.
    pub fn next_used(&mut self) -> Option<(u16, u32)> {
        if self.used_seen == self.used_index() {
            return None;
        }
        let entry = self.layout.used_ring.unchecked_add(4 + u64::from(self.used_seen % self.layout.size) * 8);
        let head: u32 = self.memory.read_obj(entry).expect("the used ring is in memory");
        let written: u32 = self.memory.read_obj(entry.unchecked_add(4)).expect("the used ring is in memory");
        self.used_seen = self.used_seen.wrapping_add(1);
        Some((u16::try_from(head).expect("heads are 16 bits"), written))
    }

    /// All completions not seen yet.
    pub fn drain_used(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.next_used()).collect()
    }

    fn store(&self, ring: GuestAddress, offset: u64, value: u16) {
        let address = ring.unchecked_add(offset);
        self.memory.store(value.to_le(), address, Ordering::SeqCst).expect("the ring is in memory");
    }

    fn load(&self, ring: GuestAddress, offset: u64) -> u16 {
        let address = ring.unchecked_add(offset);
        u16::from_le(self.memory.load(address, Ordering::SeqCst).expect("the ring is in memory"))
    }
}

fn write_entry(memory: &GuestMemory, table: GuestAddress, index: u16, descriptor: Descriptor) {
    let address = table.unchecked_add(u64::from(index) * 16);
    memory.write_obj(descriptor, address).expect("the table is in memory");
}

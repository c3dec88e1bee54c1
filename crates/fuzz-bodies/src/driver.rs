//! The driver's side of a queue, malicious: rings in guest memory of which any part may hold anything.

use std::sync::Arc;

use devices::memory::GuestMemory;
use devices::virtio::queue::QueueLayout;
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;

/// Guest memory: two regions side by side, a hole, one more.
const REGIONS: [(u64, usize); 3] = [(0, 0x10000), (0x10000, 0x30000), (0x80000, 0x10000)];
/// The first address past all regions.
const END: u64 = 0x90000;

const DESCRIPTOR_BYTES: u64 = 16;

/// A machine's memory, all zero.
pub(crate) fn memory() -> Arc<GuestMemory> {
    let regions = REGIONS.map(|(base, length)| (GuestAddress(base), length));
    Arc::new(GuestMemory::from_ranges(&regions).expect("a few hundred kilobytes"))
}

/// An address as a hostile driver picks it: within memory, at an edge of it, or far outside.
pub(crate) fn any_address(input: &mut Input<'_>) -> u64 {
    const EDGES: [u64; 8] = [0, 0x10000, 0x40000, 0x80000, END, 1 << 32, 0xc000_0000, !0xfff];
    match input.below(8) {
        0 => input.quad_word(),
        1 => u64::MAX - u64::from(input.byte()),
        2 | 3 => {
            let edge = EDGES[input.below(EDGES.len())];
            edge.wrapping_add_signed(i64::from(input.byte().cast_signed()))
        }
        _ => 0x10000 + u64::from(input.word()) % 0x30000,
    }
}

/// One queue from the driver's side.
pub(crate) struct Driver {
    memory: Arc<GuestMemory>,
    base: u64,
    size: u16,
}

impl Driver {
    /// A queue of `size` descriptors laid out from `base` on: table, available ring, used ring. Sizes up to 256 need
    /// less than 8 KiB.
    pub(crate) fn new(memory: Arc<GuestMemory>, base: u64, size: u16) -> Self {
        Self { memory, base, size }
    }

    pub(crate) fn layout(&self) -> QueueLayout {
        QueueLayout {
            size: self.size,
            descriptor_table: GuestAddress(self.base),
            available_ring: GuestAddress(self.available_ring()),
            used_ring: GuestAddress(self.used_ring()),
        }
    }

    fn available_ring(&self) -> u64 {
        self.base + u64::from(self.size) * DESCRIPTOR_BYTES
    }

    fn used_ring(&self) -> u64 {
        (self.available_ring() + 6 + u64::from(self.size) * 2 + 3) & !3
    }

    /// The first address after the used ring.
    pub(crate) fn end(&self) -> u64 {
        self.used_ring() + 6 + u64::from(self.size) * 8
    }

    /// Writes one thing a driver may write: a descriptor, an entry or the index of the available ring, its flags,
    /// the used event, or bytes anywhere in memory but the used ring.
    pub(crate) fn write_something(&self, input: &mut Input<'_>) {
        match input.below(8) {
            0..4 => self.write_descriptor(input, self.base),
            4 => self.write_descriptor(input, 0x20000),
            5 => self.store(self.available_ring() + 4 + 2 * u64::from(input.word() % self.size), input),
            6 => {
                let places = [0, 2, 4 + 2 * u64::from(self.size)];
                self.store(self.available_ring() + places[input.below(places.len())], input);
            }
            _ => {
                let address = any_address(input);
                let length = input.below(64);
                if address >= 0x10000 {
                    // Outside of memory is nothing a driver could write to.
                    let _outside = self.memory.write_slice(input.piece(length), GuestAddress(address));
                }
            }
        }
    }

    /// Puts a head into the next entry of the available ring and moves its index on.
    pub(crate) fn offer_something(&self, input: &mut Input<'_>) {
        let head = u16::from(input.byte());
        self.offer(head);
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&self, head: u16) {
        let index_at = GuestAddress(self.available_ring() + 2);
        let index: u16 = self.memory.read_obj(index_at).expect("the ring is in memory");
        let entry = self.available_ring() + 4 + 2 * u64::from(index % self.size);
        self.memory.write_obj(head, GuestAddress(entry)).expect("the ring is in memory");
        self.memory.write_obj(index.wrapping_add(1), index_at).expect("the ring is in memory");
    }

    /// Puts a descriptor with these fields into the queue's own table.
    pub(crate) fn describe(&self, slot: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.put_descriptor(self.base, slot, address, length, flags, next);
    }

    fn put_descriptor(&self, table: u64, slot: u16, address: u64, length: u32, flags: u16, next: u16) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        let place = table + u64::from(slot % self.size) * DESCRIPTOR_BYTES;
        self.memory.write_slice(&descriptor, GuestAddress(place)).expect("tables are in memory");
    }

    fn write_descriptor(&self, input: &mut Input<'_>, table: u64) {
        let (slot, flags, next) = (input.word(), input.below(16), input.byte());
        let (address, length) = if input.below(4) == 0 {
            (0x20000, 16 * u32::from(input.byte()))
        } else {
            (any_address(input), input.length())
        };
        let flags = u16::try_from(flags).expect("four bits");
        self.put_descriptor(table, slot, address, length, flags, next.into());
    }

    fn store(&self, address: u64, input: &mut Input<'_>) {
        self.memory.write_obj(input.word(), GuestAddress(address)).expect("the ring is in memory");
    }
}

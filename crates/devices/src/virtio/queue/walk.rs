//! Walking a descriptor table: each descriptor is read once and checked, then becomes part of a [`Chain`].

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use super::chain::Chain;
use super::fault::QueueFault;
use crate::memory::GuestMemory;

/// Bytes of one descriptor (virtio 1.2 §2.7.5).
const DESCRIPTOR_BYTES: u32 = 16;
/// The largest indirect table: as many entries as the largest queue.
const INDIRECT_BYTES_MAX: u32 = DESCRIPTOR_BYTES * 32768;
/// Whether `length` bytes from `address` on are all guest memory.
pub(super) fn lies_in_memory(memory: &GuestMemory, address: GuestAddress, length: u64) -> bool {
    let Ok(length) = usize::try_from(length) else {
        return false;
    };
    address.checked_add(length as u64).is_some() && memory.check_range(address, length)
}

/// Where chains are read from.
pub(super) struct ChainSource<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) table: GuestAddress,
    pub(super) size: u16,
    pub(super) indirect_allowed: bool,
}

/// The table being walked: the queue's own, or the one indirect table.
struct Table {
    base: GuestAddress,
    entries: u16,
    indirect: bool,
}

impl ChainSource<'_> {
    /// Follows the chain from `head`. At most the queue's size of descriptors are read, so a loop ends.
    pub(super) fn walk(&self, head: u16) -> Result<Chain, QueueFault> {
        let mut chain = Chain::new(head);
        let mut table = Table { base: self.table, entries: self.size, indirect: false };
        let mut index = head;
        let mut buffers = 0;
        loop {
            let descriptor = self.descriptor(&table, index, head)?;
            if descriptor.refers_to_indirect_table() {
                table = self.indirect_table(&table, &descriptor, head)?;
                index = 0;
                continue;
            }
            // §2.7.5.3.1 bounds indirect chains by the queue's size too.
            if buffers == self.size {
                return Err(QueueFault::ChainLength { head, limit: self.size });
            }
            buffers += 1;
            self.check_buffer(&descriptor, head)?;
            chain.push(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
    }

    fn descriptor(&self, table: &Table, index: u16, head: u16) -> Result<Descriptor, QueueFault> {
        if index >= table.entries {
            return Err(QueueFault::DescriptorIndex { index, limit: table.entries });
        }
        // In memory as a whole, so that the sum cannot overflow.
        let address = table.base.unchecked_add(u64::from(index) * u64::from(DESCRIPTOR_BYTES));
        self.memory.read_obj(address).map_err(|_outside| QueueFault::OutsideMemory {
            head,
            address: address.raw_value(),
            length: DESCRIPTOR_BYTES,
        })
    }

    fn indirect_table(
        &self,
        within: &Table,
        descriptor: &Descriptor,
        head: u16,
    ) -> Result<Table, QueueFault> {
        // The write flag of such a descriptor is ignored (§2.7.5.3.2).
        if !self.indirect_allowed || within.indirect || descriptor.has_next() {
            return Err(QueueFault::IndirectPlacement { head });
        }
        let length = descriptor.len();
        if length == 0 || !length.is_multiple_of(DESCRIPTOR_BYTES) || length > INDIRECT_BYTES_MAX {
            return Err(QueueFault::IndirectLength { head, length });
        }
        let entries = u16::try_from(length / DESCRIPTOR_BYTES)
            .map_err(|_too_many| QueueFault::IndirectLength { head, length })?;
        if !lies_in_memory(self.memory, descriptor.addr(), u64::from(length)) {
            return Err(QueueFault::OutsideMemory { head, address: descriptor.addr().raw_value(), length });
        }
        Ok(Table { base: descriptor.addr(), entries, indirect: true })
    }

    fn check_buffer(&self, descriptor: &Descriptor, head: u16) -> Result<(), QueueFault> {
        let (address, length) = (descriptor.addr(), descriptor.len());
        if length == 0 {
            return Err(QueueFault::EmptyBuffer { head, address: address.raw_value() });
        }
        if !lies_in_memory(self.memory, address, u64::from(length)) {
            return Err(QueueFault::OutsideMemory { head, address: address.raw_value(), length });
        }
        Ok(())
    }
}

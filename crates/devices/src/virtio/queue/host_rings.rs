//! A queue as the host's kernel is told of it, where the kernel serves it in this process's stead.

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::layout::{
    AVAILABLE_ENTRY_BYTES, DESCRIPTOR_BYTES, EVENT_BYTES, RING_HEADER_BYTES, USED_ENTRY_BYTES,
};
use super::{Queue, QueueFault};
use crate::pci::InterruptSource;

/// Where a queue lies in this process's address space, and how far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRings {
    /// Number of descriptors.
    pub size: u16,
    /// The available entry to be taken next.
    pub next: u16,
    /// Address of the descriptor table.
    pub descriptor_table: u64,
    /// Address of the available ring.
    pub available_ring: u64,
    /// Address of the used ring.
    pub used_ring: u64,
}

impl Queue {
    /// The queue's rings by host address, for vhost to serve. The queue may not be used here until
    /// [`Queue::take_over`].
    ///
    /// # Errors
    /// A part does not lie in one piece of guest memory.
    pub(crate) fn host_rings(&self) -> Result<HostRings, QueueFault> {
        let entries = u64::from(self.size());
        let available = RING_HEADER_BYTES + entries * AVAILABLE_ENTRY_BYTES + EVENT_BYTES;
        let used = RING_HEADER_BYTES + entries * USED_ENTRY_BYTES + EVENT_BYTES;
        Ok(HostRings {
            size: self.size(),
            next: self.ring.next_avail(),
            descriptor_table: self.host_address(
                self.ring.desc_table(),
                entries * DESCRIPTOR_BYTES,
                "descriptor table",
            )?,
            available_ring: self.host_address(self.ring.avail_ring(), available, "available ring")?,
            used_ring: self.host_address(self.ring.used_ring(), used, "used ring")?,
        })
    }

    /// Goes on where the one who served the queue stopped: at the available entry `next`.
    pub(crate) fn take_over(&mut self, next: u16) {
        self.ring.set_next_avail(next);
    }

    /// Has `source` interrupt the driver in this process's stead.
    ///
    /// # Errors
    /// See [`super::QueueInterrupt::delegate`].
    pub(crate) fn delegate_interrupt(&self, source: Box<dyn InterruptSource>) -> std::io::Result<()> {
        self.interrupt.delegate(source)
    }

    fn host_address(&self, guest: u64, bytes: u64, part: &'static str) -> Result<u64, QueueFault> {
        let length = usize::try_from(bytes).map_err(|_too_long| QueueFault::Ring { part })?;
        // One slice: a region of guest memory is one mapping.
        let slice = self.memory.get_slice(GuestAddress(guest), length);
        let slice = slice.map_err(|_outside| QueueFault::Ring { part })?;
        Ok(slice.ptr_guard().as_ptr().addr() as u64)
    }
}

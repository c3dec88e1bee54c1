//! A split virtqueue as devices see it: chains in, completions out, interrupts when the driver wants one
//! (virtio 1.2 §2.7).
//!
//! A [`Queue`] exists only while its device is active: it is built from settings that were checked once and stay
//! frozen until reset. Everything in the rings is the guest's and may change at any moment, so each value is read
//! once, checked, and only then used. A broken rule is a [`QueueFault`]; after one the queue hands out no chain.
//!
//! A device serves a queue like this, so that no doorbell is lost, with or without `EVENT_IDX`:
//!
//! ```text
//! loop {
//!     suppress_doorbells
//!     while let Some(chain) = pop { serve; complete }
//!     if !enable_doorbells { break }          // true: more arrived in between
//! }
//! notify                                      // one interrupt for the batch, if wanted
//! ```
//!
//! Not here: when a queue may be set up (the transport), what a chain means (the device).

mod chain;
mod fault;
mod host_rings;
mod layout;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod walk;

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::QueueT;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

pub use self::chain::{Chain, ChainAccessError, Segment};
pub use self::fault::QueueFault;
pub use self::host_rings::HostRings;
use self::layout::{AVAILABLE_ENTRY_BYTES, RING_HEADER_BYTES, USED_ENTRY_BYTES};
pub use self::layout::{QueueLayout, QueueSetupError, RingFeatures};
use crate::memory::GuestMemory;
use crate::pci::InterruptSource;

/// How a queue tells the driver that it used buffers.
pub trait QueueInterrupt: Send + Sync {
    /// Delivers the queue's interrupt, if the driver gave it a vector. A refusal by the host is counted and
    /// logged behind this call: a device can do nothing about it.
    fn trigger(&self);

    /// Has `source` deliver it from now on until the device is reset.
    ///
    /// # Errors
    /// The host or the source refused, or this is no interrupt that others can deliver.
    fn delegate(&self, source: Box<dyn InterruptSource>) -> std::io::Result<()> {
        let _unused = source;
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// One active virtqueue.
pub struct Queue {
    ring: virtio_queue::Queue,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn QueueInterrupt>,
    features: RingFeatures,
    /// Chains popped and neither completed nor rewound; never above the queue's size, whatever the driver does.
    outstanding: u16,
    /// The used index at the last [`Queue::notify`].
    announced: u16,
    fault: Option<QueueFault>,
}

impl Queue {
    /// Checks `layout` against `memory` and starts at ring position zero.
    ///
    /// # Errors
    /// The size is no power of two, a part is misaligned (virtio 1.2 §2.7) or not wholly in guest memory.
    pub fn new(
        layout: &QueueLayout,
        features: RingFeatures,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn QueueInterrupt>,
    ) -> Result<Self, QueueSetupError> {
        let ring = layout.ring(features, &memory)?;
        Ok(Self { ring, memory, interrupt, features, outstanding: 0, announced: 0, fault: None })
    }

    /// The memory that the queue and its buffers lie in.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// How many chains are popped and neither completed nor rewound.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Takes the next chain that the driver made available.
    ///
    /// A hostile driver can make one head available twice: a device that keys its bookkeeping by
    /// [`Chain::head`] must not rely on heads in flight being distinct.
    ///
    /// # Errors
    /// The driver broke a rule. The queue stays at fault: every later call gives the same error.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let popped = self.pop_unless_faulty();
        if let Err(fault) = popped {
            self.fault = Some(fault);
        }
        popped
    }

    fn pop_unless_faulty(&mut self) -> Result<Option<Chain>, QueueFault> {
        let size = self.size();
        let next = Wrapping(self.ring.next_avail());
        // Acquire: the entries and descriptors behind the index are read after it (virtio 1.2 §2.7.13).
        let available = self
            .ring
            .avail_idx(&*self.memory, Ordering::Acquire)
            .map_err(|_outside| QueueFault::Ring { part: "available index" })?;
        let pending = (available - next).0;
        if pending == 0 {
            return Ok(None);
        }
        // Each available entry occupies a descriptor, so neither count can honestly exceed the table.
        if pending > size {
            return Err(QueueFault::AvailableIndex { available: available.0, next: next.0, size });
        }
        if self.outstanding >= size {
            return Err(QueueFault::TooManyOutstanding { size });
        }
        let entry = RING_HEADER_BYTES + u64::from(next.0 % size) * AVAILABLE_ENTRY_BYTES;
        let head = self
            .load_u16(self.ring.avail_ring(), entry)
            .map_err(|_outside| QueueFault::Ring { part: "available ring" })?;
        let source = walk::ChainSource {
            memory: &self.memory,
            table: GuestAddress(self.ring.desc_table()),
            size,
            indirect_allowed: self.features.indirect_descriptors,
        };
        let chain = source.walk(head)?;
        self.ring.set_next_avail((next + Wrapping(1)).0);
        self.outstanding += 1;
        Ok(Some(chain))
    }

    /// Un-pops the last `count` chains; the next [`Queue::pop`] gives the first of them again. None of them may
    /// have been completed, nor any popped before them be completed afterwards out of order with them. Counts
    /// above [`Queue::outstanding`] are cut to it.
    pub fn rewind(&mut self, count: u16) {
        let count = count.min(self.outstanding);
        self.ring.set_next_avail(self.ring.next_avail().wrapping_sub(count));
        self.outstanding -= count;
    }

    /// Gives the chain with `head` back to the driver, `written` bytes of it filled from the start of its
    /// writable part (virtio 1.2 §2.7.8). Silent until [`Queue::notify`].
    ///
    /// # Errors
    /// `head` is no descriptor of this queue.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), QueueFault> {
        let size = self.size();
        if head >= size {
            return Err(QueueFault::DescriptorIndex { index: head, limit: size });
        }
        self.ring
            .add_used(&*self.memory, head, written)
            .map_err(|_outside| QueueFault::Ring { part: "used ring" })?;
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(())
    }

    /// As [`Queue::complete`] for several chains, head and bytes written each: the driver sees all of them at once
    /// or none, as a packet in several buffers must be (virtio 1.2 §5.1.6.4).
    ///
    /// # Errors
    /// A head is no descriptor of this queue; nothing was given back then.
    pub fn complete_together(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueFault> {
        let Some((&(last, last_written), earlier)) = chains.split_last() else {
            return Ok(());
        };
        let size = self.size();
        if let Some(&(index, _)) = chains.iter().find(|(head, _)| *head >= size) {
            return Err(QueueFault::DescriptorIndex { index, limit: size });
        }
        // Entries past the used index are not looked at by the driver until the index passes them.
        let mut next = self.ring.next_used();
        for (head, written) in earlier {
            let entry = RING_HEADER_BYTES + u64::from(next % size) * USED_ENTRY_BYTES;
            let element = u64::from(*written) << 32 | u64::from(*head);
            GuestAddress(self.ring.used_ring())
                .checked_add(entry)
                .and_then(|address| self.memory.write_obj(element.to_le(), address).ok())
                .ok_or(QueueFault::Ring { part: "used ring" })?;
            next = next.wrapping_add(1);
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        self.ring.set_next_used(next);
        self.complete(last, last_written)
    }

    /// Interrupts the driver if there were completions since the last call and it asks for an interrupt
    /// (virtio 1.2 §2.7.7). Call it once after a batch.
    ///
    /// # Errors
    /// The rings are not in guest memory, which [`Queue::new`] excludes.
    pub fn notify(&mut self) -> Result<(), QueueFault> {
        let used = self.ring.next_used();
        let announced = std::mem::replace(&mut self.announced, used);
        if used != announced && self.driver_wants_interrupt(announced, used)? {
            self.interrupt.trigger();
        }
        Ok(())
    }

    fn driver_wants_interrupt(&self, announced: u16, used: u16) -> Result<bool, QueueFault> {
        // The used index must be visible before the driver's notification setting is read, or a driver that changes it and
        // then looks at the index could miss both.
        fence(Ordering::SeqCst);
        if self.features.event_index {
            let event_offset = RING_HEADER_BYTES + u64::from(self.size()) * AVAILABLE_ENTRY_BYTES;
            let event = self
                .load_u16(self.ring.avail_ring(), event_offset)
                .map_err(|_outside| QueueFault::Ring { part: "used event" })?;
            // Whether the entry that the driver waits for is among those since the last time.
            return Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(announced));
        }
        let flags = self
            .load_u16(self.ring.avail_ring(), 0)
            .map_err(|_outside| QueueFault::Ring { part: "available flags" })?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Tells the driver that it need not ring while the device is looking at the queue anyway: a hint
    /// (virtio 1.2 §2.7.10). With `EVENT_IDX` doorbells are off until asked for, and this does nothing.
    pub fn suppress_doorbells(&mut self) {
        // Fails only if the used ring is outside of memory, which `new` excludes; then the hint is not given.
        let _hint = self.ring.disable_notification(&*self.memory);
    }

    /// Asks for a doorbell at the next chain. `true` means that chains arrived before the driver could see the
    /// request: serve them now, no doorbell may come for them.
    ///
    /// # Errors
    /// The rings are not in guest memory, which [`Queue::new`] excludes.
    pub fn enable_doorbells(&mut self) -> Result<bool, QueueFault> {
        self.ring
            .enable_notification(&*self.memory)
            .map_err(|_outside| QueueFault::Ring { part: "available event" })
    }

    fn load_u16(&self, ring: u64, offset: u64) -> Result<u16, GuestMemoryError> {
        let address = GuestAddress(ring).checked_add(offset).ok_or(GuestMemoryError::GuestAddressOverflow)?;
        self.memory.load::<u16>(address, Ordering::Acquire).map(u16::from_le)
    }
}

//! Where a queue lies and which ring features it uses: a driver's settings, checked once.

use thiserror::Error;
use virtio_queue::QueueT;
use vm_memory::{Address, GuestAddress};

use super::walk::lies_in_memory;
use crate::memory::GuestMemory;

/// The flags and index words before a ring's entries (virtio 1.2 §2.7.6).
pub(super) const RING_HEADER_BYTES: u64 = 4;
/// One entry of the available ring: a descriptor's index.
pub(super) const AVAILABLE_ENTRY_BYTES: u64 = 2;
/// One entry of the used ring (§2.7.8): a head and a length.
pub(super) const USED_ENTRY_BYTES: u64 = 8;
/// One descriptor (§2.7.5).
pub(super) const DESCRIPTOR_BYTES: u64 = 16;
/// The word after a ring's entries, `used_event` or `avail_event`; counted whether it is agreed on or not.
pub(super) const EVENT_BYTES: u64 = 2;

/// Where a driver placed a queue and how large it made it (virtio 1.2 §2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor table, 16-byte aligned.
    pub descriptor_table: GuestAddress,
    /// Available ring, 2-byte aligned: written by the driver.
    pub available_ring: GuestAddress,
    /// Used ring, 4-byte aligned: written by the device.
    pub used_ring: GuestAddress,
}

/// The ring features that both sides agreed on (virtio 1.2 §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`: doorbells and interrupts are asked for by ring position.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC`: a chain may continue in a table of its own.
    pub indirect_descriptors: bool,
}

impl QueueLayout {
    /// The ring these settings describe, at position zero.
    pub(super) fn ring(
        &self,
        features: RingFeatures,
        memory: &GuestMemory,
    ) -> Result<virtio_queue::Queue, QueueSetupError> {
        let size = u64::from(self.size);
        let mut ring = virtio_queue::Queue::new(self.size)
            .map_err(|_invalid| QueueSetupError::Size { size: self.size })?;
        let table = size * DESCRIPTOR_BYTES;
        let available = RING_HEADER_BYTES + size * AVAILABLE_ENTRY_BYTES + EVENT_BYTES;
        let used = RING_HEADER_BYTES + size * USED_ENTRY_BYTES + EVENT_BYTES;
        check_part(memory, "descriptor table", self.descriptor_table, 16, table)?;
        check_part(memory, "available ring", self.available_ring, 2, available)?;
        check_part(memory, "used ring", self.used_ring, 4, used)?;
        let (low, high) = halves(self.descriptor_table);
        ring.set_desc_table_address(Some(low), Some(high));
        let (low, high) = halves(self.available_ring);
        ring.set_avail_ring_address(Some(low), Some(high));
        let (low, high) = halves(self.used_ring);
        ring.set_used_ring_address(Some(low), Some(high));
        ring.set_event_idx(features.event_index);
        ring.set_ready(true);
        Ok(ring)
    }
}

/// Settings of a queue that no device can work with (virtio 1.2 §2.7).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QueueSetupError {
    /// The size is out of range.
    #[error("queue size {size} is no power of two from 1 to 32768")]
    Size {
        /// What the driver asked for.
        size: u16,
    },
    /// A part is not aligned as the specification demands.
    #[error("{part} at {address:#x} is not aligned to {alignment} bytes")]
    Alignment {
        /// Which part.
        part: &'static str,
        /// Where it was placed.
        address: u64,
        /// What is demanded.
        alignment: u64,
    },
    /// A part is not wholly in guest memory.
    #[error("{part} of {length} bytes at {address:#x} is not wholly in guest memory")]
    OutsideMemory {
        /// Which part.
        part: &'static str,
        /// Where it was placed.
        address: u64,
        /// How long it is.
        length: u64,
    },
}

/// The low and high words of an address.
fn halves(address: GuestAddress) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = address.raw_value().to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

fn check_part(
    memory: &GuestMemory,
    part: &'static str,
    address: GuestAddress,
    alignment: u64,
    length: u64,
) -> Result<(), QueueSetupError> {
    if !address.raw_value().is_multiple_of(alignment) {
        return Err(QueueSetupError::Alignment { part, address: address.raw_value(), alignment });
    }
    if !lies_in_memory(memory, address, length) {
        return Err(QueueSetupError::OutsideMemory { part, address: address.raw_value(), length });
    }
    Ok(())
}

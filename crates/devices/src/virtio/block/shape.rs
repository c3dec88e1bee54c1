//! How large a disk is, what may be done with it, how many queues it has, and what the guest is told of that. Numbers
//! alone: this module uses no other.

use vm_model::{DiskAccess, DiskErasure};

/// The unit of addresses, whatever the file's own blocks are (virtio 1.2 §5.2.4).
pub(super) const SECTOR_BYTES: u64 = 512;
/// Sectors are grouped by two to this power in what lies beneath: 4 KiB, for file systems and flash alike.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// Bytes of the configuration space up to and including the write-zeroes fields (§5.2.4).
pub(super) const CONFIGURATION_BYTES: usize = 60;
/// Bytes of the answer to a request for the disk's serial number.
pub(super) const SERIAL_BYTES: usize = 20;
/// Ranges a request.
pub(super) const ERASE_SEGMENTS_MAX: u32 = 32;
/// Sectors a range to discard: 1 GiB.
pub(super) const DISCARD_SECTORS_MAX: u32 = 1 << 21;
/// Sectors a range to zero: 64 MiB, which may have to be written.
pub(super) const WRITE_ZEROES_SECTORS_MAX: u32 = 1 << 17;
/// The most transfers in flight, whatever the number of queues: requests past them wait in their queues.
const SLOTS_MAX: u16 = 1024;

/// How many queues there are, and how large each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueShape {
    pub(super) count: u16,
    pub(super) size: u16,
}

impl QueueShape {
    /// Transfers in flight, at least as many as one queue can have.
    pub(super) fn slots(self) -> u16 {
        self.count.saturating_mul(self.size).min(SLOTS_MAX).max(self.size)
    }
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskShape {
    /// Whole sectors of the file; what is left over is not reachable.
    pub(super) sectors: u64,
    pub(super) access: DiskAccess,
    pub(super) erasure: DiskErasure,
}

impl DiskShape {
    /// Whether discards and zeroes are served.
    pub(super) fn offers_erasure(&self) -> bool {
        self.access == DiskAccess::ReadWrite && self.erasure == DiskErasure::Offered
    }

    /// The configuration space of a device with `queues`.
    pub(super) fn configuration(&self, queues: QueueShape) -> [u8; CONFIGURATION_BYTES] {
        let mut space = [0; CONFIGURATION_BYTES];
        let mut put =
            |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &self.sectors.to_le_bytes());
        put(12, &segments_max(queues.size).to_le_bytes());
        put(20, &512u32.to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXPONENT, 0]);
        put(26, &(1u16 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
        put(32, &[1]);
        put(34, &queues.count.to_le_bytes());
        if self.offers_erasure() {
            put(36, &DISCARD_SECTORS_MAX.to_le_bytes());
            put(40, &ERASE_SEGMENTS_MAX.to_le_bytes());
            put(44, &(1u32 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
            put(48, &WRITE_ZEROES_SECTORS_MAX.to_le_bytes());
            put(52, &ERASE_SEGMENTS_MAX.to_le_bytes());
            put(56, &[1]);
        }
        space
    }
}

/// Data segments of a request beside its header and status.
fn segments_max(queue_size: u16) -> u32 {
    u32::from(queue_size.saturating_sub(2).max(1))
}

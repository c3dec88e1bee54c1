//! The ranges of a discard or write-zeroes request (virtio 1.2 §5.2.6, `virtio_blk_discard_write_zeroes`).

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

use super::{HEADER_BYTES, Status, checked_offset};
use crate::memory::GuestMemory;
use crate::virtio::block::engine::{Erasure, Extent};
use crate::virtio::block::shape::{
    DISCARD_SECTORS_MAX, DiskShape, ERASE_SEGMENTS_MAX, SECTOR_BYTES, WRITE_ZEROES_SECTORS_MAX,
};
use crate::virtio::queue::Chain;

/// Bytes a range takes in the request: sector, number of sectors, flags.
const SEGMENT_BYTES: u64 = 16;
/// Bytes to discard for one that a limit of bytes counts. For each block of 4 KiB that is freed, a file system
/// writes at most an entry of a dozen bytes and some bits.
const DISCARD_SHARE: u64 = 256;

/// Which of the two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EraseKind {
    Discard,
    WriteZeroes,
}

/// How many ranges `payload` bytes are, if that is a number a request may have.
pub(super) fn segments(payload: u64) -> Option<u32> {
    let count = u32::try_from(payload / SEGMENT_BYTES).ok()?;
    (payload.is_multiple_of(SEGMENT_BYTES) && (1..=ERASE_SEGMENTS_MAX).contains(&count)).then_some(count)
}

/// What `extent` takes of a limit of bytes. What is to read as zeros may have to be written.
pub(super) fn charge(extent: &Extent) -> u64 {
    match extent.erasure {
        Erasure::Discard => extent.bytes / DISCARD_SHARE,
        Erasure::Unmap | Erasure::Zero => extent.bytes,
    }
}

/// Reads `segments` ranges of `chain`, each once, and checks them against a disk of `shape`; the first one stands
/// last. Empty ranges are left out.
///
/// # Errors
/// What the guest is to be told. Nothing of such a request is carried out.
pub(crate) fn read_extents(
    kind: EraseKind,
    segments: u32,
    chain: &Chain,
    memory: &GuestMemory,
    shape: &DiskShape,
) -> Result<Vec<Extent>, Status> {
    let mut extents = Vec::with_capacity(segments.min(ERASE_SEGMENTS_MAX) as usize);
    for index in (0..u64::from(segments)).rev() {
        let mut segment = [0; 16];
        chain
            .read_at(memory, HEADER_BYTES + index * SEGMENT_BYTES, &mut segment)
            .map_err(|_too_short| Status::IoError)?;
        extents.extend(extent(kind, segment, shape)?);
    }
    Ok(extents)
}

fn extent(kind: EraseKind, segment: [u8; 16], shape: &DiskShape) -> Result<Option<Extent>, Status> {
    let [sector_low, sector_high, sectors, flags] = super::words(segment);
    // Flags that are not known, and `unmap` of a discard, must be told apart from errors (§5.2.6.2).
    let (erasure, most) = match (kind, flags) {
        (EraseKind::Discard, 0) => (Erasure::Discard, DISCARD_SECTORS_MAX),
        (EraseKind::WriteZeroes, 0) => (Erasure::Zero, WRITE_ZEROES_SECTORS_MAX),
        (EraseKind::WriteZeroes, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => {
            (Erasure::Unmap, WRITE_ZEROES_SECTORS_MAX)
        }
        (EraseKind::Discard | EraseKind::WriteZeroes, _) => return Err(Status::Unsupported),
    };
    let bytes = u64::from(sectors) * SECTOR_BYTES;
    let sector = u64::from(sector_high) << 32 | u64::from(sector_low);
    let offset = checked_offset(shape, sector, bytes).ok_or(Status::IoError)?;
    if sectors > most {
        return Err(Status::IoError);
    }
    Ok((bytes > 0).then_some(Extent { offset, bytes, erasure }))
}

//! A chain of the guest's, read once and turned into a request that cannot be wrong (virtio 1.2 §5.2.6).
//!
//! Buffers may be cut anywhere (§2.7.4), so the parts are found by length: the first 16 readable bytes are the
//! header, the rest of the readable ones data to write; the last writable byte is the status, those before it
//! are for data to read.

use std::ops::Range;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_model::DiskAccess;

pub(super) use self::extents::{EraseKind, read_extents};
use self::extents::{charge, segments};
use super::engine::Extent;
use super::shape::{DiskShape, SECTOR_BYTES, SERIAL_BYTES};
use crate::memory::GuestMemory;
use crate::virtio::queue::Chain;

mod extents;

/// Bytes of a request's header: type, reserved, sector.
pub(super) const HEADER_BYTES: u64 = 16;

/// What is written into a request's last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        let code = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

/// A request that can be carried out. Ranges lie within the disk and lengths are whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Fill the first `bytes` writable bytes from the file at `offset`.
    Read { offset: u64, bytes: u64 },
    /// Write the `bytes` readable ones after the header to the file at `offset`.
    Write { offset: u64, bytes: u64 },
    /// Make all completed writes durable.
    Flush,
    /// Tell the serial number, cut to `bytes`.
    SerialNumber { bytes: usize },
    /// Discard or zero the ranges that [`read_extents`] finds after the header, and checks.
    Erase { kind: EraseKind, segments: u32 },
}

/// Why a chain is no [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// There is a status byte to say so in.
    Answer(Status),
    /// There is not even that; the chain just goes back.
    NoStatus,
}

impl Request {
    /// Reads `chain`'s header and checks all of it against a disk of `shape`.
    ///
    /// # Errors
    /// What the guest is to be told instead.
    pub(super) fn parse(chain: &Chain, memory: &GuestMemory, shape: &DiskShape) -> Result<Self, Rejection> {
        let Some(to_fill) = chain.writable_len().checked_sub(1) else {
            return Err(Rejection::NoStatus);
        };
        let io_error = Rejection::Answer(Status::IoError);
        let mut header = [0; 16];
        chain.read_at(memory, 0, &mut header).map_err(|_too_short| io_error)?;
        let [kind, _reserved, sector_low, sector_high] = words(header);
        let sector = u64::from(sector_high) << 32 | u64::from(sector_low);
        match kind {
            VIRTIO_BLK_T_IN => {
                let offset = checked_offset(shape, sector, to_fill).ok_or(io_error)?;
                Ok(Self::Read { offset, bytes: to_fill })
            }
            VIRTIO_BLK_T_OUT => {
                let bytes = chain.readable_len() - HEADER_BYTES;
                let offset = checked_offset(shape, sector, bytes).ok_or(io_error)?;
                match shape.access {
                    DiskAccess::ReadWrite => Ok(Self::Write { offset, bytes }),
                    DiskAccess::ReadOnly => Err(io_error),
                }
            }
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_DISCARD => Self::parse_erase(EraseKind::Discard, chain, shape),
            VIRTIO_BLK_T_WRITE_ZEROES => Self::parse_erase(EraseKind::WriteZeroes, chain, shape),
            VIRTIO_BLK_T_GET_ID => Ok(Self::SerialNumber {
                bytes: usize::try_from(to_fill).map_or(SERIAL_BYTES, |room| room.min(SERIAL_BYTES)),
            }),
            _ => Err(Rejection::Answer(Status::Unsupported)),
        }
    }

    /// Bytes that it takes of a limit of bytes, with the ranges that it erases.
    pub(super) fn charge(&self, extents: &[Extent]) -> u64 {
        match *self {
            Self::Read { bytes, .. } | Self::Write { bytes, .. } => bytes,
            Self::Erase { .. } => extents.iter().map(charge).sum(),
            Self::Flush | Self::SerialNumber { .. } => 0,
        }
    }

    /// The bytes of the disk that it reaches, from the first to the last, with the ranges that it erases.
    pub(super) fn span(&self, extents: &[Extent]) -> Range<u64> {
        match *self {
            // The range lies on the disk.
            Self::Read { offset, bytes } | Self::Write { offset, bytes } => offset..offset + bytes,
            Self::Erase { .. } => {
                let start = extents.iter().map(|extent| extent.offset).min();
                let end = extents.iter().map(|extent| extent.offset + extent.bytes).max();
                start.unwrap_or(0)..end.unwrap_or(0)
            }
            Self::Flush | Self::SerialNumber { .. } => 0..0,
        }
    }

    /// Whether it changes what is on the disk.
    pub(super) fn changes_the_disk(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Erase { .. } => true,
            Self::Read { .. } | Self::Flush | Self::SerialNumber { .. } => false,
        }
    }

    fn parse_erase(kind: EraseKind, chain: &Chain, shape: &DiskShape) -> Result<Self, Rejection> {
        if !shape.offers_erasure() {
            return Err(Rejection::Answer(Status::Unsupported));
        }
        let segments =
            segments(chain.readable_len() - HEADER_BYTES).ok_or(Rejection::Answer(Status::IoError))?;
        Ok(Self::Erase { kind, segments })
    }
}

fn words(header: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// The byte offset of `sector` if `bytes` from there on are whole sectors of the disk.
fn checked_offset(shape: &DiskShape, sector: u64, bytes: u64) -> Option<u64> {
    let end = sector.checked_add(bytes / SECTOR_BYTES)?;
    (bytes.is_multiple_of(SECTOR_BYTES) && end <= shape.sectors).then(|| sector * SECTOR_BYTES)
}

#[cfg(test)]
mod tests;

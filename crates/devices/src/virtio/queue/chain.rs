//! One chain of buffers as plain segments, checked before it exists (by the walk over the descriptor table).
//!
//! A [`Chain`] holds no reference into guest memory, so a device may keep it while I/O is in flight.

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

use super::fault::QueueFault;
use crate::memory::GuestMemory;

/// Chains of up to this many buffers need no allocation: a block request with a few pages of data, or a packet.
const INLINE_SEGMENTS: usize = 6;

/// Consecutive guest-physical bytes, all of them in guest memory. They may span adjacent memory regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The first byte.
    pub address: GuestAddress,
    /// How many, at least one.
    pub length: u32,
}

/// Why bytes of a chain could not be copied.
#[derive(Debug, Error)]
pub enum ChainAccessError {
    /// The range reaches past the end of the chain's readable or writable part.
    #[error("{length} bytes at offset {offset} reach past the {available} bytes of the chain")]
    Range {
        /// Where the range starts.
        offset: u64,
        /// How long it is.
        length: usize,
        /// What the chain has.
        available: u64,
    },
    /// Guest memory refused.
    #[error("guest memory at {address:#x} could not be accessed")]
    Memory {
        /// The segment's address.
        address: u64,
        /// The underlying error.
        #[source]
        source: GuestMemoryError,
    },
}

/// A validated chain: first what the device may read, then what it may write (virtio 1.2 §2.7.4.2).
#[derive(Clone, Debug)]
pub struct Chain {
    head: u16,
    segments: Segments,
    readable: usize,
    readable_bytes: u32,
    writable_bytes: u32,
}

impl Chain {
    pub(super) fn new(head: u16) -> Self {
        Self { head, segments: Segments::default(), readable: 0, readable_bytes: 0, writable_bytes: 0 }
    }

    /// What [`super::Queue::complete`] is called with.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        u64::from(self.readable_bytes)
    }

    /// Bytes the device may write. With the readable ones they are fewer than 2³².
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        u64::from(self.writable_bytes)
    }

    /// How many buffers it is made of. Walking them takes time, however short they are.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.segments.count
    }

    /// The buffers to read from.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.segments.as_slice()[..self.readable]
    }

    /// The buffers to write to.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.segments.as_slice()[self.readable..]
    }

    /// Fills `data` from `offset` of the readable part.
    ///
    /// # Errors
    /// The readable part ends before `offset` plus `data`'s length; nothing was copied then.
    pub fn read_at(
        &self,
        memory: &GuestMemory,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), ChainAccessError> {
        check_range(offset, data.len(), self.readable_len())?;
        let mut rest = data;
        for piece in pieces(self.readable(), offset) {
            let (now, later) = rest.split_at_mut(rest.len().min(piece.length as usize));
            memory.read_slice(now, piece.address).map_err(|source| access_error(piece, source))?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Copies `data` to `offset` of the writable part.
    ///
    /// # Errors
    /// The writable part ends before `offset` plus `data`'s length; nothing was copied then.
    pub fn write_at(&self, memory: &GuestMemory, offset: u64, data: &[u8]) -> Result<(), ChainAccessError> {
        check_range(offset, data.len(), self.writable_len())?;
        let mut rest = data;
        for piece in pieces(self.writable(), offset) {
            let (now, later) = rest.split_at(rest.len().min(piece.length as usize));
            memory.write_slice(now, piece.address).map_err(|source| access_error(piece, source))?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Appends a buffer whose range is checked already.
    pub(super) fn push(&mut self, descriptor: &Descriptor) -> Result<(), QueueFault> {
        let head = self.head;
        let length = descriptor.len();
        if self
            .readable_bytes
            .checked_add(self.writable_bytes)
            .and_then(|sum| sum.checked_add(length))
            .is_none()
        {
            return Err(QueueFault::ChainBytes { head });
        }
        if descriptor.is_write_only() {
            self.writable_bytes += length;
        } else if self.writable_bytes > 0 {
            return Err(QueueFault::ReadableAfterWritable { head });
        } else {
            self.readable_bytes += length;
            self.readable += 1;
        }
        self.segments.push(Segment { address: descriptor.addr(), length });
        Ok(())
    }
}

fn check_range(offset: u64, length: usize, available: u64) -> Result<(), ChainAccessError> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= available => Ok(()),
        _ => Err(ChainAccessError::Range { offset, length, available }),
    }
}

/// The segments from `offset` on, the first one cut at its start.
fn pieces(segments: &[Segment], offset: u64) -> impl Iterator<Item = Segment> + '_ {
    let mut skip = offset;
    segments.iter().filter_map(move |segment| {
        let Some(cut) = u32::try_from(skip).ok().filter(|cut| *cut < segment.length) else {
            skip -= u64::from(segment.length);
            return None;
        };
        skip = 0;
        Some(Segment { address: segment.address.unchecked_add(u64::from(cut)), length: segment.length - cut })
    })
}

fn access_error(piece: Segment, source: GuestMemoryError) -> ChainAccessError {
    ChainAccessError::Memory { address: piece.address.raw_value(), source }
}

/// Segments in place while they are few, on the heap from then on.
#[derive(Clone, Debug, Default)]
struct Segments {
    inline: [Segment; INLINE_SEGMENTS],
    count: usize,
    /// All of them, once there are more than fit in place.
    spilled: Vec<Segment>,
}

impl Segments {
    fn push(&mut self, segment: Segment) {
        if let Some(place) = self.inline.get_mut(self.count) {
            *place = segment;
        } else {
            if self.spilled.is_empty() {
                self.spilled.extend_from_slice(&self.inline);
            }
            self.spilled.push(segment);
        }
        self.count += 1;
    }

    fn as_slice(&self) -> &[Segment] {
        if self.spilled.is_empty() { &self.inline[..self.count] } else { &self.spilled }
    }
}

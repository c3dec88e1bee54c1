//! Pieces of guest memory as the vectors of one system call, kept mapped for as long as the kernel may use them.
//!
//! This is the only place where guest addresses become host pointers for I/O. The pointers are never followed by
//! this process itself: they are handed to the kernel, which copies as the hardware of a real device would,
//! whatever the guest does to the same bytes meanwhile.
#![expect(
    unsafe_code,
    reason = "raw pointers in vectors are to cross threads with the memory they point into"
)]

use std::sync::Arc;

use thiserror::Error;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

use super::queue::Segment;
use crate::memory::GuestMemory;

/// One less than the most vectors that one system call takes (`UIO_MAXIOV`), to leave room for the spare byte of
/// [`IoVectors::with_spare_byte`].
pub(crate) const VECTORS_MAX: usize = 1023;
/// What [`IoVectors::fill_with_zeros`] points to.
static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];
/// How many used-up vectors are kept before the rest is moved down.
const STALE_MAX: usize = 64;

/// Why segments could not be turned into vectors.
#[derive(Debug, Error)]
pub(crate) enum VectorsError {
    #[error("{length} bytes at {address:#x} are not wholly in guest memory")]
    Outside {
        address: u64,
        length: usize,
        #[source]
        source: GuestMemoryError,
    },
    #[error("a transfer needs more than {VECTORS_MAX} vectors")]
    TooMany,
}

/// Vectors over guest memory. Reused from one transfer to the next, so that a transfer allocates nothing.
#[derive(Default)]
pub(crate) struct IoVectors {
    vectors: Vec<libc::iovec>,
    /// Vectors before this one are done with.
    first: usize,
    bytes: u64,
    /// What the vectors point into; `Some` whenever there are any.
    memory: Option<Arc<GuestMemory>>,
}

// SAFETY: the pointers lead into the mappings of `memory`, which this value keeps alive wherever it goes; they
// are followed by the kernel only, which does not care which thread asks.
unsafe impl Send for IoVectors {}

impl IoVectors {
    /// Forgets all pieces and lets go of the memory.
    pub(crate) fn clear(&mut self) {
        self.vectors.clear();
        self.first = 0;
        self.bytes = 0;
        self.memory = None;
    }

    /// Appends `length` bytes of `segments`, leaving out the first `skip`; fewer where the segments end.
    /// All pieces between two calls of [`IoVectors::clear`] must be of the same memory.
    ///
    /// # Errors
    /// A segment is not in memory, or there are more than [`VECTORS_MAX`] pieces; nothing is appended then.
    pub(crate) fn append(
        &mut self,
        memory: &Arc<GuestMemory>,
        segments: &[Segment],
        skip: u64,
        length: u64,
    ) -> Result<(), VectorsError> {
        debug_assert!(self.memory.as_ref().is_none_or(|held| Arc::ptr_eq(held, memory)));
        self.memory.get_or_insert_with(|| Arc::clone(memory));
        if self.first > STALE_MAX {
            self.vectors.drain(..self.first);
            self.first = 0;
        }
        let (count, bytes) = (self.vectors.len(), self.bytes);
        let appended = self.append_pieces(memory, segments, skip, length);
        if appended.is_err() {
            self.vectors.truncate(count);
            self.bytes = bytes;
        }
        appended
    }

    fn append_pieces(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: u64,
        length: u64,
    ) -> Result<(), VectorsError> {
        let (mut skip, mut rest) = (skip, length);
        for segment in segments {
            let skipped = skip.min(u64::from(segment.length));
            skip -= skipped;
            let wanted = (u64::from(segment.length) - skipped).min(rest);
            if wanted > 0 {
                self.append_piece(memory, segment, skipped, wanted)?;
                rest -= wanted;
            }
        }
        Ok(())
    }

    fn append_piece(
        &mut self,
        memory: &GuestMemory,
        segment: &Segment,
        skipped: u64,
        wanted: u64,
    ) -> Result<(), VectorsError> {
        let address = segment.address.unchecked_add(skipped);
        // Both are parts of a 32-bit length.
        let length = usize::try_from(wanted).unwrap_or(usize::MAX);
        for slice in memory.get_slices(address, length) {
            let slice = slice.map_err(|source| VectorsError::Outside {
                address: address.raw_value(),
                length,
                source,
            })?;
            if self.vectors.len() - self.first >= VECTORS_MAX {
                return Err(VectorsError::TooMany);
            }
            self.vectors
                .push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
            self.bytes += slice.len() as u64;
        }
        Ok(())
    }

    /// Replaces all pieces by zeros of this process's own, `bytes` of them or as many as one system call takes.
    /// They are for writing out only: the kernel refuses to read into them.
    pub(crate) fn fill_with_zeros(&mut self, bytes: u64) {
        self.clear();
        while self.bytes < bytes && self.vectors.len() < VECTORS_MAX {
            let length = ZEROS.len().min(usize::try_from(bytes - self.bytes).unwrap_or(usize::MAX));
            self.vectors.push(libc::iovec { iov_base: ZEROS.as_ptr().cast_mut().cast(), iov_len: length });
            self.bytes += length as u64;
        }
    }

    /// Bytes that the vectors cover.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The vectors, for a system call made while `self` is kept: by then the memory is still mapped.
    pub(crate) fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors[self.first..]
    }

    /// As [`IoVectors::as_slice`], for `call` only, with one more vector at the end: a byte that nobody keeps. A
    /// transfer that fills it had more to give than the vectors could take.
    pub(crate) fn with_spare_byte<R>(&mut self, call: impl FnOnce(&[libc::iovec]) -> R) -> R {
        let mut spare = 0u8;
        self.vectors.push(libc::iovec { iov_base: (&raw mut spare).cast(), iov_len: 1 });
        let result = call(self.as_slice());
        self.vectors.pop();
        result
    }

    /// Copies `bytes` into the first of the pieces, as far as they go.
    pub(crate) fn copy_from(&self, bytes: &[u8]) {
        let mut rest = bytes;
        for vector in self.as_slice() {
            let (part, left) = rest.split_at(vector.iov_len.min(rest.len()));
            if let Some(piece) = self.piece(vector) {
                piece.copy_from(part);
            }
            rest = left;
        }
    }

    /// The guest memory that `vector`, one of these, covers; `None` for zeros of this process's own.
    fn piece<'a>(&'a self, vector: &libc::iovec) -> Option<VolatileSlice<'a>> {
        self.memory.as_ref()?;
        // SAFETY: vectors made from guest memory lie in a mapping that `self` keeps for as long as the slice lives.
        Some(unsafe { VolatileSlice::new(vector.iov_base.cast(), vector.iov_len) })
    }

    /// Drops the first `count` bytes, at most all.
    pub(crate) fn advance(&mut self, count: u64) {
        let mut rest = count.min(self.bytes);
        self.bytes -= rest;
        while rest > 0
            && let Some(vector) = self.vectors.get_mut(self.first)
        {
            let step = usize::try_from(rest).unwrap_or(usize::MAX).min(vector.iov_len);
            vector.iov_base = vector.iov_base.wrapping_byte_add(step);
            vector.iov_len -= step;
            rest -= step as u64;
            if vector.iov_len == 0 {
                self.first += 1;
            }
        }
        if self.first == self.vectors.len() {
            self.vectors.clear();
            self.first = 0;
        }
    }
}

/// Notes that the kernel wrote the first `bytes` of `segments`, for whoever tracks changed pages.
pub(crate) fn mark_written(memory: &GuestMemory, segments: &[Segment], bytes: u64) {
    let mut rest = bytes;
    for segment in segments {
        let length = rest.min(u64::from(segment.length));
        rest -= length;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        for slice in memory.get_slices(segment.address, length).flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    /// Two adjacent regions, so that a segment across them takes two vectors.
    fn memory() -> Arc<GuestMemory> {
        Arc::new(
            GuestMemory::from_ranges(&[(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x2000)]).unwrap(),
        )
    }

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestAddress(address), length }
    }

    fn lengths(vectors: &IoVectors) -> Vec<usize> {
        vectors.as_slice().iter().map(|vector| vector.iov_len).collect()
    }

    #[test]
    fn a_segment_across_regions_is_two_vectors() {
        let mut vectors = IoVectors::default();
        vectors.append(&memory(), &[segment(0x1ff0, 0x20)], 0, 0x20).unwrap();
        assert_eq!(lengths(&vectors), [0x10, 0x10]);
    }

    #[test]
    fn skip_and_length_cut_both_ends() {
        let mut vectors = IoVectors::default();
        let segments = [segment(0, 10), segment(0x100, 10), segment(0x200, 10)];
        vectors.append(&memory(), &segments, 12, 11).unwrap();
        assert_eq!(lengths(&vectors), [8, 3]);
        assert_eq!(vectors.bytes(), 11);
    }

    #[test]
    fn what_is_outside_of_memory_is_refused() {
        let mut vectors = IoVectors::default();
        let refused = vectors.append(&memory(), &[segment(0, 16), segment(0x3ff0, 0x20)], 0, 0x30);
        assert!(matches!(refused, Err(VectorsError::Outside { address: 0x3ff0, .. })));
        assert_eq!((lengths(&vectors), vectors.bytes()), (vec![], 0));
    }

    #[test]
    fn more_vectors_than_a_system_call_takes_are_refused() {
        let mut vectors = IoVectors::default();
        let segments = vec![segment(0, 1); VECTORS_MAX + 1];
        let refused = vectors.append(&memory(), &segments, 0, u64::MAX);
        assert!(matches!(refused, Err(VectorsError::TooMany)));
    }

    #[test]
    fn memory_is_let_go_when_cleared() {
        let memory = memory();
        let mut vectors = IoVectors::default();
        vectors.append(&memory, &[segment(0, 1)], 0, 1).unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
        vectors.clear();
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn only_written_pages_are_marked() {
        let memory = memory();
        mark_written(&memory, &[segment(0xff0, 0x20), segment(0x2000, 0x10)], 0x18);
        let dirty = |page: u64| {
            let region = memory.find_region(GuestAddress(page * 0x1000)).unwrap();
            let start = vm_memory::GuestMemoryRegion::start_addr(region);
            let offset = usize::try_from(page * 0x1000 - start.raw_value()).unwrap();
            vm_memory::GuestMemoryRegion::bitmap(region).dirty_at(offset)
        };
        assert_eq!([0, 1, 2, 3].map(dirty), [true, true, false, false]);
        memory.write_slice(&[1], GuestAddress(0x3000)).unwrap();
        assert!(dirty(3));
    }

    #[test]
    fn zeros_come_in_as_many_pieces_as_a_system_call_takes() {
        let mut vectors = IoVectors::default();
        vectors.fill_with_zeros(0x1_0001);
        assert_eq!((lengths(&vectors), vectors.bytes()), (vec![0x1_0000, 1], 0x1_0001));
        vectors.fill_with_zeros(u64::MAX);
        assert_eq!((lengths(&vectors).len(), vectors.bytes()), (VECTORS_MAX, 0x1_0000 * VECTORS_MAX as u64));
    }

    proptest! {
        #[test]
        fn advancing_drops_just_that_many_bytes(
            pieces in proptest::collection::vec(1u32..64, 1..8),
            steps in proptest::collection::vec(0u64..100, 0..8),
        ) {
            let segments: Vec<_> = pieces.iter().map(|length| segment(0x1fe0, *length)).collect();
            let total: u64 = pieces.iter().map(|length| u64::from(*length)).sum();
            let mut vectors = IoVectors::default();
            vectors.append(&memory(), &segments, 0, total).unwrap();
            let mut left = total;
            for step in steps {
                vectors.advance(step);
                left = left.saturating_sub(step);
                prop_assert_eq!(vectors.bytes(), left);
                prop_assert_eq!(lengths(&vectors).iter().sum::<usize>() as u64, left);
                prop_assert!(lengths(&vectors).iter().all(|length| *length > 0));
            }
        }
    }
}

//! Discarding and zeroing parts of a file: what the kernel is asked to do, and what is done instead where a file
//! system or device cannot do it.
//!
//! ```text
//!            done, more extents           cannot zero          written
//!          ┌──────────────────┐      ┌──────────────────→ Fill ────────┐
//! start ──→ Erase ────────────┴──────┤                                 │
//!          ↑                         └─ last extent done → (Flush) → end
//!          └───────────────────────────────────────────────────────────┘
//! ```

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Progress, Transfer, TransferKind};

/// What becomes of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Erasure {
    /// Nobody needs its content: free its space if that is possible.
    Discard,
    /// It reads as zeros, and its space is freed if that is possible.
    Unmap,
    /// It reads as zeros and keeps its space.
    Zero,
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Byte offset.
    pub(crate) offset: u64,
    /// Length in bytes, not zero.
    pub(crate) bytes: u64,
    pub(crate) erasure: Erasure,
}

impl Extent {
    /// How `fallocate` is to treat it. The file's size never changes.
    pub(super) fn mode(&self) -> FallocateFlags {
        FallocateFlags::KEEP_SIZE
            | match self.erasure {
                Erasure::Discard | Erasure::Unmap => FallocateFlags::PUNCH_HOLE,
                Erasure::Zero => FallocateFlags::ZERO_RANGE,
            }
    }
}

impl Transfer {
    /// Accounts for an attempt to erase the last extent.
    pub(super) fn erased(&mut self, result: Result<u64, Errno>) -> Progress {
        let erasure = self.extents.last().map(|extent| extent.erasure);
        match (result, erasure) {
            // That a discard is a hint makes doing nothing right (virtio 1.2 §5.2.6.2).
            (Ok(_), _) | (Err(Errno::OPNOTSUPP | Errno::NOSYS), Some(Erasure::Discard)) => {
                self.extents.pop();
                self.next_extent()
            }
            (Err(Errno::OPNOTSUPP | Errno::NOSYS), Some(Erasure::Unmap | Erasure::Zero)) => {
                self.kind = TransferKind::Fill;
                self.next_fill()
            }
            (Err(error), _) => Progress::Done(Err(error.into())),
        }
    }

    /// Accounts for zeros that were written whole.
    pub(super) fn filled(&mut self) -> Progress {
        if let Some(extent) = self.extents.last_mut() {
            let end = extent.offset.saturating_add(extent.bytes);
            extent.bytes = end.saturating_sub(self.offset);
            extent.offset = self.offset;
            if extent.bytes > 0 {
                return self.next_fill();
            }
        }
        self.extents.pop();
        self.kind = TransferKind::Erase;
        self.next_extent()
    }

    fn next_fill(&mut self) -> Progress {
        if let Some(extent) = self.extents.last() {
            self.offset = extent.offset;
            self.vectors.fill_with_zeros(extent.bytes);
        }
        Progress::Again
    }

    fn next_extent(&mut self) -> Progress {
        if !self.extents.is_empty() {
            return Progress::Again;
        }
        self.changed()
    }
}

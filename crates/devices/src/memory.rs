//! The one type of guest memory that devices and machines share.

use std::fmt::Debug;

use vm_memory::bitmap::{AtomicBitmap, BS, Bitmap, NewBitmap, WithBitmapSlice};
use vm_memory::{GuestMemoryMmap, GuestRegionMmap};

/// Guest memory: mapped regions with a bitmap of the pages that devices wrote. Cloning shares the mappings.
pub type GuestMemory = GuestMemoryMmap<RegionPages>;

/// One contiguous piece of [`GuestMemory`].
pub type GuestRegion = GuestRegionMmap<RegionPages>;

/// What owns a mapping and unmaps it when dropped.
pub trait MappingOwner: Debug + Send + Sync {}

/// What is known of a region's pages: which of them devices wrote, and who keeps them mapped.
///
/// `vm-memory` lets the kernel choose where it maps, or unmaps nothing. A mapping whose address was chosen lives as
/// long as its region does by being owned here: nothing else goes with a region exactly.
#[derive(Debug, Default)]
pub struct RegionPages {
    written: AtomicBitmap,
    /// Only ever dropped.
    _owner: Option<Box<dyn MappingOwner>>,
}

impl RegionPages {
    /// Of a region of `length` bytes, none of them written, that `owner` keeps mapped.
    pub fn owned_by(length: usize, owner: Box<dyn MappingOwner>) -> Self {
        Self { written: AtomicBitmap::with_len(length), _owner: Some(owner) }
    }
}

impl<'a> WithBitmapSlice<'a> for RegionPages {
    type S = BS<'a, AtomicBitmap>;
}

impl Bitmap for RegionPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.written.mark_dirty(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.written.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> BS<'_, AtomicBitmap> {
        self.written.slice_at(offset)
    }
}

impl NewBitmap for RegionPages {
    fn with_len(len: usize) -> Self {
        Self { written: AtomicBitmap::with_len(len), _owner: None }
    }
}

//! The one type of guest memory that devices and machines share.

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryMmap, GuestRegionMmap};

/// Guest memory: mapped regions with a bitmap of the pages that devices wrote. Cloning shares the mappings.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// One contiguous piece of [`GuestMemory`].
pub type GuestRegion = GuestRegionMmap<AtomicBitmap>;

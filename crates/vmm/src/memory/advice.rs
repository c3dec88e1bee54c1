//! What the host's memory management is told about a region: `madvise` and nothing else.
#![expect(unsafe_code, reason = "madvise takes an address range")]

use std::ops::Range;

use devices::memory::GuestRegion;
use rustix::mm::Advice;
use vm_memory::GuestMemoryRegion;
use vm_model::{MemoryBacking, MemorySpec};

use super::MemoryError;
use super::mapping::HUGE_PAGE;

/// What is not offered huge pages: the first page's worth of guest memory.
///
/// Boot structures, tables and all of a tiny guest lie here, on a few pages of 4 KiB. One of 2 MiB would be zeroed before
/// such a guest's first instruction and stay with it, and is a hundredth of what a usual guest touches while it boots.
const WITHOUT_HUGE_PAGES: Range<u64> = 0..HUGE_PAGE as u64;

/// Applies to a freshly mapped `region` what `spec` asks for.
pub(super) fn prepare(region: &GuestRegion, spec: &MemorySpec) -> Result<(), MemoryError> {
    // A forked child would have to copy the page tables of all guests, and each guest would fault after it.
    must(region, spec, 0..region.len(), Advice::LinuxDontFork, "keeping it from forked children")?;
    match spec.backing {
        MemoryBacking::HugePages(_) => {}
        MemoryBacking::Automatic => return Err(MemoryError::Undecided { size: spec.size }),
        MemoryBacking::SharedMemfd => {
            if let Some(range) = huge_range(region.start_addr().0, region.len()) {
                // The host's settings decide whether it matters. A kernel without huge pages refuses.
                let _ = advise(region, range, Advice::LinuxHugepage);
            }
        }
        MemoryBacking::AnonymousHuge => ask_for_huge_pages(region, spec)?,
        MemoryBacking::AnonymousMergeable => {
            must(region, spec, 0..region.len(), Advice::LinuxMergeable, "offering it to same-page merging")?;
        }
    }
    if spec.prefault {
        advise(region, 0..region.len(), Advice::LinuxPopulateWrite)
            .map_err(|error| MemoryError::Prefault { size: spec.size, source: error.into() })?;
    }
    Ok(())
}

/// Where the host gives huge pages to all private memory, what is to have none must say so.
fn ask_for_huge_pages(region: &GuestRegion, spec: &MemorySpec) -> Result<(), MemoryError> {
    let huge = huge_range(region.start_addr().0, region.len());
    let small = 0..huge.as_ref().map_or(region.len(), |range| range.start);
    if !small.is_empty() {
        must(region, spec, small, Advice::LinuxNoHugepage, "keeping its first pages small")?;
    }
    match huge {
        Some(range) => must(region, spec, range, Advice::LinuxHugepage, "asking for huge pages"),
        None => Ok(()),
    }
}

/// Offsets of what is offered huge pages in a region of `length` bytes at guest-physical `start`; nothing where
/// not one fits. It reaches to the region's end, whole page or not, because each end inside a region is one mapping more.
fn huge_range(start: u64, length: u64) -> Option<Range<u64>> {
    let from = WITHOUT_HUGE_PAGES.end.saturating_sub(start);
    (length >= from.saturating_add(HUGE_PAGE as u64)).then_some(from..length)
}

fn must(
    region: &GuestRegion,
    spec: &MemorySpec,
    range: Range<u64>,
    advice: Advice,
    operation: &'static str,
) -> Result<(), MemoryError> {
    advise(region, range, advice).map_err(|error| MemoryError::Create {
        size: spec.size,
        operation,
        source: error.into(),
    })
}

fn advise(region: &GuestRegion, range: Range<u64>, advice: Advice) -> rustix::io::Result<()> {
    assert!(range.start <= range.end && range.end <= region.len(), "a range of the region");
    let offset = usize::try_from(range.start).expect("an offset in a mapped region is a usize");
    let length = usize::try_from(range.end - range.start).expect("a mapped region's length is a usize");
    let start = region.as_ptr().wrapping_add(offset);
    // SAFETY: the range lies in one mapping, which `region` keeps mapped during the call. None of the advice passed by
    // this module discards or replaces content.
    unsafe { rustix::mm::madvise(start.cast(), length, advice) }
}

#[cfg(test)]
mod tests {
    use crate::layout;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn huge_pages_start_above_the_boot_structures() {
        assert_eq!(huge_range(0, 128 * MIB), Some(2 * MIB..128 * MIB));
        assert_eq!(huge_range(0, 4 * MIB), Some(2 * MIB..4 * MIB));
        assert_eq!(huge_range(0, 5 * MIB), Some(2 * MIB..5 * MIB), "one mapping to the end");
        // All that is written for the guest, but its kernel and RAM disk, is below.
        const { assert!(layout::RESET_VECTOR < WITHOUT_HUGE_PAGES.end) };
    }

    #[test]
    fn regions_without_room_for_a_huge_page_are_left_alone() {
        assert_eq!(huge_range(0, 2 * MIB), None);
        assert_eq!(huge_range(0, 4 * MIB - layout::PAGE_SIZE), None);
        assert_eq!(huge_range(layout::HOLE_END, layout::PAGE_SIZE), None);
    }

    #[test]
    fn all_of_a_region_above_the_hole_is_offered() {
        assert_eq!(huge_range(layout::HOLE_END, 2 * MIB), Some(0..2 * MIB));
        assert_eq!(huge_range(layout::HOLE_END, 3 * MIB), Some(0..3 * MIB));
    }
}

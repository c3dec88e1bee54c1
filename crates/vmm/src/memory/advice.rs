//! What the host's memory management is told about a region: `madvise` and nothing else.
#![expect(unsafe_code, reason = "madvise takes an address range")]

use devices::memory::GuestRegion;
use rustix::mm::Advice;
use vm_memory::GuestMemoryRegion;
use vm_model::{MemoryBacking, MemorySpec};

use super::MemoryError;

/// Applies to a freshly mapped `region` what `spec` asks for.
pub(super) fn prepare(region: &GuestRegion, spec: &MemorySpec) -> Result<(), MemoryError> {
    // A forked child would have to copy the page tables of all guests, and each guest would fault after it.
    must(region, spec, Advice::LinuxDontFork, "keeping it from forked children")?;
    match spec.backing {
        MemoryBacking::SharedMemfd | MemoryBacking::HugePages(_) => {}
        MemoryBacking::AnonymousHuge => must(region, spec, Advice::LinuxHugepage, "asking for huge pages")?,
        MemoryBacking::AnonymousMergeable => {
            must(region, spec, Advice::LinuxMergeable, "offering it to same-page merging")?;
        }
    }
    if spec.prefault {
        advise(region, Advice::LinuxPopulateWrite)
            .map_err(|error| MemoryError::Prefault { size: spec.size, source: error.into() })?;
    }
    Ok(())
}

fn must(
    region: &GuestRegion,
    spec: &MemorySpec,
    advice: Advice,
    operation: &'static str,
) -> Result<(), MemoryError> {
    advise(region, advice).map_err(|error| MemoryError::Create {
        size: spec.size,
        operation,
        source: error.into(),
    })
}

fn advise(region: &GuestRegion, advice: Advice) -> rustix::io::Result<()> {
    let length = usize::try_from(region.len()).expect("a mapped region's length is a usize");
    // SAFETY: the range is exactly one mapping, which `region` owns and keeps mapped during the call. None of
    // the advice passed by this module discards or replaces content.
    unsafe { rustix::mm::madvise(region.as_ptr().cast(), length, advice) }
}

//! How much of a machine's memory occupies host memory now.
#![expect(unsafe_code, reason = "mincore takes an address range and fills a buffer")]

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use devices::memory::GuestRegion;
use vm_memory::GuestMemoryRegion;
use vm_model::Bytes;

use crate::layout::PAGE_SIZE;

/// Pages asked about in one call: a 16 KiB buffer and 64 MiB of guest memory.
const PAGES_A_CALL: usize = 16 * 1024;
/// How old the size of private memory may become while the guest sleeps: only the host can change it then, which swaps or
/// merges pages.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a machine's resident size is read with. It keeps the memory alive.
#[derive(Debug)]
pub(crate) struct ResidentMemory {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A memfd's blocks are its resident (or swapped) pages.
    File(Arc<File>),
    /// Private memory has no other account that is one machine's own.
    Mappings {
        regions: Vec<Arc<GuestRegion>>,
        /// Replaced whole: a poisoned lock is used on.
        latest: Mutex<Option<Measured>>,
    },
}

/// A size that was read.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    /// What the machine's vCPUs had used before.
    cpu_time: Duration,
    size: Bytes,
}

impl ResidentMemory {
    pub(super) fn of_file(file: Arc<File>) -> Self {
        Self { source: Source::File(file) }
    }

    pub(super) fn of_mappings(regions: Vec<Arc<GuestRegion>>) -> Self {
        Self { source: Source::Mappings { regions, latest: Mutex::default() } }
    }

    /// The resident size, of a machine whose vCPUs have used `cpu_time`. Zero where the host does not say.
    ///
    /// One system call for a memfd; one per 64 MiB of guest memory otherwise, where the guest has run since the size was read
    /// before, or that is long ago.
    pub(crate) fn read(&self, cpu_time: Duration) -> Bytes {
        match &self.source {
            Source::File(file) => {
                // stat(2): blocks are of 512 bytes whatever the file system's block size.
                let blocks = rustix::fs::fstat(file).map_or(0, |status| status.st_blocks);
                Bytes::new(u64::try_from(blocks).unwrap_or(0) * 512)
            }
            Source::Mappings { regions, latest } => {
                let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
                match *latest {
                    Some(known) if known.holds(cpu_time) => known.size,
                    Some(_) | None => {
                        let at = Instant::now();
                        let pages = regions.iter().map(|region| resident_pages(region)).sum::<u64>();
                        let size = Bytes::new(pages * PAGE_SIZE);
                        *latest = Some(Measured { at, cpu_time, size });
                        size
                    }
                }
            }
        }
    }
}

impl Measured {
    /// Whether it is still so, of a machine whose vCPUs have used `cpu_time` by now.
    fn holds(&self, cpu_time: Duration) -> bool {
        self.cpu_time == cpu_time && self.at.elapsed() < LONGEST_SLEEP
    }
}

fn resident_pages(region: &GuestRegion) -> u64 {
    let page_size = usize::try_from(PAGE_SIZE).expect("4096 is a usize");
    let length = usize::try_from(region.len()).expect("a mapped region's length is a usize");
    let mut present = vec![0_u8; PAGES_A_CALL.min(length / page_size)];
    let mut count = 0;
    for offset in (0..length).step_by(PAGES_A_CALL * page_size) {
        let chunk = (PAGES_A_CALL * page_size).min(length - offset);
        let start = region.as_ptr().wrapping_add(offset);
        // SAFETY: `start..start + chunk` lies in the mapping that `region` owns and keeps; `present` has a byte
        // for each of its pages, because `chunk` is at most PAGES_A_CALL pages.
        let result = unsafe { libc::mincore(start.cast(), chunk, present.as_mut_ptr()) };
        if result != 0 {
            return 0;
        }
        let pages = &present[..chunk / page_size];
        count += pages.iter().map(|page| u64::from(page & 1)).sum::<u64>();
    }
    count
}

//! What a page fault costs in this process, which depends on how many machines it holds: the kernel tells each of them of
//! every page that changes its place.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::thread::disable_transparent_huge_pages;

const PAGE: usize = 4096;
/// More than an allocator ever keeps for later: pages come fresh from the kernel.
const SIZE: usize = 64 << 20;

/// Reads each page of fresh memory, so that it is the page of zeros, and writes to it. Answers nanoseconds a page of
/// writing.
pub(crate) fn copy_on_write() -> Result<Vec<u64>> {
    // One fault is to be one small page, whatever the host gives.
    disable_transparent_huge_pages(true).context("cannot do without huge pages")?;
    let mut memory = vec![0_u8; SIZE];
    let zeros: u64 = memory.iter().step_by(PAGE).map(|byte| u64::from(*black_box(byte))).sum();
    black_box(zeros);
    let begun = Instant::now();
    for byte in memory.iter_mut().step_by(PAGE) {
        *black_box(byte) = 1;
    }
    let took = begun.elapsed();
    drop(memory);
    disable_transparent_huge_pages(false).context("cannot have huge pages again")?;
    let pages = u128::try_from(SIZE / PAGE)?;
    Ok(vec![u64::try_from(took.as_nanos() / pages)?])
}

//! Pages that the host has set aside: how they are asked for, and how many there are when they do not suffice.

use std::fs;

use rustix::fs::MemfdFlags;
use vm_model::{Bytes, HugePageSize};

/// Where the kernel counts its pools (Linux `Documentation/admin-guide/mm/hugetlbpage.rst`).
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// What asks `memfd_create` for pages of this size.
pub(super) fn memfd_flags(size: HugePageSize) -> MemfdFlags {
    MemfdFlags::HUGETLB
        | match size {
            HugePageSize::TwoMib => MemfdFlags::HUGE_2MB,
            HugePageSize::OneGib => MemfdFlags::HUGE_1GB,
        }
}

/// Huge pages of `size` that are neither in use nor reserved; `None` where the host has none of this size.
pub(super) fn unpromised(size: HugePageSize) -> Option<u64> {
    let pool = format!("{POOLS}/hugepages-{}kB", size.bytes().get() >> 10);
    let count = |file| fs::read_to_string(format!("{pool}/{file}")).ok();
    difference(&count("free_hugepages")?, &count("resv_hugepages")?)
}

/// Pages are counted as free until they are touched, whoever they were promised to.
fn difference(free: &str, promised: &str) -> Option<u64> {
    let (free, promised): (u64, u64) = (free.trim().parse().ok()?, promised.trim().parse().ok()?);
    Some(free.saturating_sub(promised))
}

/// Whole pages of `size` that make up `memory`; `None` if there is a rest.
pub(super) fn whole_pages(memory: Bytes, size: HugePageSize) -> Option<u64> {
    let page = size.bytes().get();
    memory.get().is_multiple_of(page).then(|| memory.get() / page)
}

/// How many pages a host has left, in words.
pub(super) fn in_words(free: Option<u64>) -> String {
    match free {
        Some(free) => format!("{free} are free"),
        None => "this host has no pages of that size".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_pages_are_not_free() {
        assert_eq!(difference("10\n", "3\n"), Some(7));
        assert_eq!(difference("1\n", "3\n"), Some(0));
        assert_eq!(difference("many\n", "3\n"), None);
    }

    #[test]
    fn memory_is_a_whole_number_of_pages() {
        assert_eq!(whole_pages(Bytes::from_mib(64), HugePageSize::TwoMib), Some(32));
        assert_eq!(whole_pages(Bytes::from_mib(63), HugePageSize::TwoMib), None);
        assert_eq!(whole_pages(Bytes::from_mib(3072), HugePageSize::OneGib), Some(3));
    }
}

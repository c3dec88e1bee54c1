//! Huge pages that the host has set aside: how many of them a machine could be promised. The kernel promises each to one machine
//! when that is launched; here it is only foreseen, before another is stopped for it.

use std::fs;
use std::path::Path;

use vm_model::{Footprint, HugePageSize, MemoryBacking};

use super::admission::CapacityError;
use super::demand::DemandChange;

/// Where the kernel counts its pools (Linux `Documentation/admin-guide/mm/hugetlbpage.rst`).
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// Pages of each size that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HugePages {
    pub(crate) two_mib: u64,
    pub(crate) one_gib: u64,
}

/// What the host has of each size; `None` where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HugePools {
    pub(crate) two_mib: Option<HugePool>,
    pub(crate) one_gib: Option<HugePool>,
}

/// The pages of one size on a host, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HugePool {
    /// Neither in use nor promised.
    pub(crate) unpromised: u64,
    /// In use beyond what is set aside: they go when they are given back.
    pub(crate) surplus: u64,
    /// How many of those there may be.
    pub(crate) overcommit: u64,
}

impl HugePages {
    /// Those that a machine with `footprint` takes.
    pub(super) fn of(footprint: &Footprint) -> Self {
        let MemoryBacking::HugePages(size) = footprint.memory.backing else { return Self::default() };
        let pages = footprint.memory.size.get().div_ceil(size.bytes().get());
        match size {
            HugePageSize::TwoMib => Self { two_mib: pages, ..Self::default() },
            HugePageSize::OneGib => Self { one_gib: pages, ..Self::default() },
        }
    }

    /// `of` the numbers of pages of each size of both.
    pub(super) fn each(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self { two_mib: of(self.two_mib, other.two_mib), one_gib: of(self.one_gib, other.one_gib) }
    }
}

impl HugePool {
    /// How many pages can be promised once `freed` are given back.
    fn available(self, freed: u64) -> u64 {
        let Self { unpromised, surplus, overcommit } = self;
        let beyond = surplus.min(freed);
        let room = overcommit.saturating_sub(surplus - beyond);
        unpromised.saturating_add(freed - beyond).saturating_add(room)
    }
}

impl HugePools {
    /// What this host has now.
    pub(super) fn observe() -> Self {
        Self::below(Path::new(POOLS))
    }

    fn below(root: &Path) -> Self {
        let pool = |size: HugePageSize| {
            let pool = root.join(format!("hugepages-{}kB", size.bytes().get() >> 10));
            let count = |file| fs::read_to_string(pool.join(file)).ok()?.trim().parse::<u64>().ok();
            Some(HugePool {
                // Pages are counted as free until they are touched, whoever they were promised to.
                unpromised: count("free_hugepages")?.saturating_sub(count("resv_hugepages")?),
                surplus: count("surplus_hugepages")?,
                overcommit: count("nr_overcommit_hugepages")?,
            })
        };
        Self { two_mib: pool(HugePageSize::TwoMib), one_gib: pool(HugePageSize::OneGib) }
    }

    /// Whether a machine that takes `wanted` can be had once what is promised has changed so.
    ///
    /// # Errors
    /// There are too few of a size.
    pub(super) fn admit(&self, wanted: HugePages, change: &DemandChange) -> Result<(), CapacityError> {
        let (freed, added) = (change.freed.huge_pages, change.added.huge_pages);
        let sizes = [
            (HugePageSize::TwoMib, self.two_mib, wanted.two_mib, freed.two_mib, added.two_mib),
            (HugePageSize::OneGib, self.one_gib, wanted.one_gib, freed.one_gib, added.one_gib),
        ];
        sizes.into_iter().try_for_each(|(size, pool, wanted, freed, added)| {
            let Some(pool) = pool.filter(|_| wanted > 0) else { return Ok(()) };
            let available = pool.available(freed).saturating_sub(added);
            if wanted <= available {
                return Ok(());
            }
            Err(CapacityError::TooFewHugePages { size: size.bytes(), wanted, available, freed })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capacity::Demand;

    #[test]
    fn the_kernels_counts_are_read() {
        let root = tempfile::tempdir().expect("a directory");
        let pool = root.path().join("hugepages-2048kB");
        fs::create_dir(&pool).expect("made");
        let counts = [("free", "10\n"), ("resv", "3\n"), ("surplus", "2\n"), ("nr_overcommit", "5\n")];
        for (name, count) in counts {
            fs::write(pool.join(format!("{name}_hugepages")), count).expect("written");
        }
        let two_mib = Some(HugePool { unpromised: 7, surplus: 2, overcommit: 5 });
        assert_eq!(HugePools::below(root.path()), HugePools { two_mib, one_gib: None });
    }

    #[test]
    fn pages_beyond_those_set_aside_do_not_come_back() {
        let pool = HugePool { unpromised: 1, surplus: 4, overcommit: 0 };
        assert_eq!([0, 3, 6].map(|freed| pool.available(freed)), [1, 1, 3]);
        assert_eq!(
            HugePool { overcommit: 6, ..pool }.available(0),
            3,
            "two more are made when they are asked for"
        );
    }

    proptest! {
        #[test]
        fn what_a_machine_gives_back_is_there_for_its_next_one(
            unpromised in 0..1000_u64, own in 0..1000_u64, wanted in 1..2000_u64,
        ) {
            let two_mib = Some(HugePool { unpromised, ..HugePool::default() });
            let pools = HugePools { two_mib, one_gib: None };
            let pages = |two_mib| HugePages { two_mib, ..HugePages::default() };
            let freed = Demand { huge_pages: pages(own), ..Demand::default() };
            let change = DemandChange { freed, ..DemandChange::default() };
            prop_assert_eq!(pools.admit(pages(wanted), &change).is_ok(), wanted <= unpromised + own);
        }
    }
}

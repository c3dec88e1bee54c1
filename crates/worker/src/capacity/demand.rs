//! What machines take of what a host can run out of. Plain sums that never overflow.

use vm_model::{Bytes, Footprint};

use super::huge_pages::HugePages;

/// What one machine takes, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// How many machines it is.
    pub(crate) machines: u64,
    /// Memory that is not of huge pages.
    pub(crate) memory: Bytes,
    /// Threads of their processes.
    pub(crate) threads: u64,
    /// Descriptors of their processes.
    pub(crate) descriptors: u64,
    /// vCPUs.
    pub(crate) vcpus: u64,
    /// Pages that the host has set aside.
    pub(crate) huge_pages: HugePages,
}

/// How what is promised is about to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DemandChange {
    /// What machines give back.
    pub(crate) freed: Demand,
    /// What machines get beside.
    pub(crate) added: Demand,
}

impl Demand {
    /// That of one machine.
    pub(crate) fn of(footprint: &Footprint) -> Self {
        Self {
            machines: 1,
            memory: footprint.ordinary_memory(),
            threads: footprint.threads.into(),
            descriptors: footprint.descriptors.into(),
            vcpus: footprint.vcpus.into(),
            huge_pages: HugePages::of(footprint),
        }
    }

    /// This one and `other`.
    #[must_use]
    pub(crate) fn with(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What is left of this one without `other`: nothing of what `other` has more of.
    #[must_use]
    pub(crate) fn without(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    /// Whether it is more than `other` in anything.
    pub(crate) fn exceeds(&self, other: &Self) -> bool {
        self.without(other) != Self::default()
    }

    fn each(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            machines: of(self.machines, other.machines),
            memory: Bytes::new(of(self.memory.get(), other.memory.get())),
            threads: of(self.threads, other.threads),
            descriptors: of(self.descriptors, other.descriptors),
            vcpus: of(self.vcpus, other.vcpus),
            huge_pages: self.huge_pages.each(other.huge_pages, of),
        }
    }
}

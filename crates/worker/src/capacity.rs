//! How much memory this host's VMs may have together: each start takes a share, which goes back when its machine is gone.
//!
//! Pages are taken as guests touch them. A host that promised more than it has ends processes then, and with them
//! machines that were promised less; so a start that would promise too much is refused instead.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use vm_model::{Bytes, Footprint};

use crate::vms::MemoryOvercommit;

/// What is left to the worker and the host's other programs.
const RESERVE: Bytes = Bytes::from_mib(256);

/// Memory of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMemory {
    /// All of it.
    pub(crate) total: Bytes,
    /// Set aside as huge pages, which the kernel promises to one machine only.
    huge_pages: Bytes,
}

/// What is promised to machines now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Promised {
    machines: u64,
    memory: Bytes,
}

/// How what is promised is about to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PromiseChange {
    /// What machines give back.
    pub(crate) freed: Bytes,
    /// What machines get beside.
    pub(crate) added: Bytes,
}

/// Why a machine is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum CapacityError {
    /// It alone is larger than the host.
    #[error(
        "not enough memory: the machine is to have {} MiB, this host has {} MiB in all",
        mib(*wanted),
        mib(*total)
    )]
    LargerThanHost {
        /// Of its guest.
        wanted: Bytes,
        /// Of the host.
        total: Bytes,
    },
    /// Together with those that run it is more than may be promised.
    #[error(
        "not enough memory: the machine takes {} MiB, {} MiB are promised already (machines: {machines}), and this \
         host's machines may have {} MiB together ({percent} % of {} MiB, less a reserve of {} MiB)",
        mib(*wanted),
        mib(*promised),
        mib(*capacity),
        mib(*total),
        mib(RESERVE)
    )]
    Overcommitted {
        /// What it takes in all.
        wanted: Bytes,
        /// Machines that have a share.
        machines: u64,
        /// Their shares.
        promised: Bytes,
        /// What all may have.
        capacity: Bytes,
        /// What is reckoned with, in hundredths of what the host has.
        percent: u32,
        /// What the host has, huge pages apart.
        total: Bytes,
    },
}

/// Rounded up, so that what does not fit does not look as if it did.
fn mib(bytes: Bytes) -> u64 {
    bytes.get().div_ceil(1 << 20)
}

/// The shares of all machines of a host.
#[derive(Debug)]
pub(crate) struct Capacity {
    limit: MemoryOvercommit,
    /// Protects the sum. Held for moments, never while anything is waited for.
    promised: Mutex<Promised>,
}

/// One machine's share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Capacity>,
    memory: Bytes,
    is_given_back: bool,
}

impl Share {
    /// How much it is.
    pub(crate) fn memory(&self) -> Bytes {
        self.memory
    }
}

impl Promised {
    fn give_back(&mut self, memory: Bytes) {
        self.machines = self.machines.saturating_sub(1);
        self.memory = difference(self.memory, memory);
    }
}

impl Capacity {
    pub(crate) fn new(limit: MemoryOvercommit) -> Arc<Self> {
        Arc::new(Self { limit, promised: Mutex::default() })
    }

    /// Whether a machine with `footprint` could be started on `host` now, if `freed` of what is promised were given back.
    ///
    /// # Errors
    /// See [`CapacityError`].
    pub(crate) fn check(
        &self,
        footprint: &Footprint,
        host: Option<HostMemory>,
        freed: Option<Bytes>,
    ) -> Result<(), CapacityError> {
        let mut promised = *self.promised();
        if let Some(freed) = freed {
            promised.give_back(freed);
        }
        host.map_or(Ok(()), |host| admit(host, self.limit, promised, footprint))
    }

    /// Whether a machine with `footprint` could be started on `host` once what is promised has changed so.
    ///
    /// # Errors
    /// See [`CapacityError`].
    pub(crate) fn check_after(
        &self,
        footprint: &Footprint,
        host: Option<HostMemory>,
        change: PromiseChange,
    ) -> Result<(), CapacityError> {
        let mut promised = *self.promised();
        promised.memory = difference(sum(promised.memory, change.added), change.freed);
        host.map_or(Ok(()), |host| admit(host, self.limit, promised, footprint))
    }

    /// Takes the share of a machine with `footprint` on `host`, in exchange for that of the machine `before` it; a host that
    /// does not say what it has refuses nothing.
    ///
    /// # Errors
    /// See [`CapacityError`]. The share of the machine before is given back then.
    pub(crate) fn take(
        self: &Arc<Self>,
        footprint: &Footprint,
        host: Option<HostMemory>,
        before: Option<Share>,
    ) -> Result<Share, CapacityError> {
        let mut promised = self.promised();
        if let Some(mut before) = before {
            promised.give_back(before.memory);
            before.is_given_back = true;
        }
        if let Some(host) = host {
            admit(host, self.limit, *promised, footprint)?;
        }
        drop(promised);
        Ok(self.resume(footprint))
    }

    /// Takes the share of a machine with `footprint` that runs already, whatever is promised.
    pub(crate) fn resume(self: &Arc<Self>, footprint: &Footprint) -> Share {
        let (wanted, mut promised) = (footprint.ordinary_memory(), self.promised());
        promised.machines = promised.machines.saturating_add(1);
        promised.memory = sum(promised.memory, wanted);
        Share { of: Arc::clone(self), memory: wanted, is_given_back: false }
    }

    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.of.promised().give_back(self.memory);
        }
    }
}

/// Whether a machine with `footprint` may start beside those that have `promised`.
fn admit(
    host: HostMemory,
    limit: MemoryOvercommit,
    promised: Promised,
    footprint: &Footprint,
) -> Result<(), CapacityError> {
    let (guest, wanted) = (footprint.memory.size, footprint.ordinary_memory());
    if guest > host.total {
        return Err(CapacityError::LargerThanHost { wanted: guest, total: host.total });
    }
    match limit {
        MemoryOvercommit::Unlimited => Ok(()),
        MemoryOvercommit::Percent(percent) => {
            let total = difference(host.total, host.huge_pages);
            let capacity = carried(total, percent);
            let Promised { machines, memory: promised } = promised;
            if sum(promised, wanted) <= capacity {
                return Ok(());
            }
            Err(CapacityError::Overcommitted { wanted, machines, promised, capacity, percent, total })
        }
    }
}

/// What machines may be promised together on `host`; `None` where that is not limited.
pub(crate) fn assignable(limit: MemoryOvercommit, host: HostMemory) -> Option<Bytes> {
    match limit {
        MemoryOvercommit::Percent(percent) => Some(carried(difference(host.total, host.huge_pages), percent)),
        MemoryOvercommit::Unlimited => None,
    }
}

/// What machines may have together on a host with `total`.
fn carried(total: Bytes, percent: u32) -> Bytes {
    let scaled = u128::from(total.get()) * u128::from(percent) / 100;
    difference(Bytes::new(u64::try_from(scaled).unwrap_or(u64::MAX)), RESERVE)
}

fn sum(one: Bytes, other: Bytes) -> Bytes {
    Bytes::new(one.get().saturating_add(other.get()))
}

fn difference(all: Bytes, part: Bytes) -> Bytes {
    Bytes::new(all.get().saturating_sub(part.get()))
}

impl HostMemory {
    /// What this host has now; `None` where it does not say. Huge pages can be set aside at any time.
    pub(crate) fn observe() -> Option<Self> {
        Self::parse(&fs::read_to_string(Path::new("/proc/meminfo")).ok()?)
    }

    /// Reads `/proc/meminfo` (Linux `Documentation/filesystems/proc.rst`).
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            Some(Bytes::new(kibibytes.checked_mul(1024)?))
        };
        // Kernels without huge pages have no such line.
        Some(Self { total: field("MemTotal")?, huge_pages: field("Hugetlb").unwrap_or(Bytes::new(0)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::{HugePageSize, MemoryBacking, MemorySpec};

    use super::*;

    fn memory(size: Bytes) -> MemorySpec {
        MemorySpec { size, backing: MemoryBacking::SharedMemfd, prefault: false }
    }

    /// Of a machine that takes 4 MiB besides.
    fn of(memory: MemorySpec) -> Footprint {
        Footprint { overhead: Bytes::from_mib(4), ..Footprint::of_memory(memory) }
    }

    fn machine(mib: u64) -> Footprint {
        of(memory(Bytes::from_mib(mib)))
    }

    fn host(mib: u64) -> Option<HostMemory> {
        Some(HostMemory { total: Bytes::from_mib(mib), huge_pages: Bytes::new(0) })
    }

    fn limited(percent: u32) -> Arc<Capacity> {
        Capacity::new(MemoryOvercommit::Percent(percent))
    }

    #[test]
    fn what_may_be_promised_is_what_starts_are_held_against() {
        let host = |mib| HostMemory { total: Bytes::from_mib(mib), huge_pages: Bytes::new(0) };
        let huge = HostMemory { huge_pages: Bytes::from_mib(100), ..host(1380) };
        assert_eq!(assignable(MemoryOvercommit::Percent(100), huge), Some(Bytes::from_mib(1024)));
        assert_eq!(assignable(MemoryOvercommit::Percent(150), host(1280)), Some(Bytes::from_mib(1664)));
        assert_eq!(assignable(MemoryOvercommit::Unlimited, host(1280)), None);
    }

    #[test]
    fn shares_add_up_and_come_back() {
        let capacity = limited(100);
        let first = capacity.take(&machine(500), host(1280), None).expect("fits");
        let _second = capacity.take(&machine(512), host(1280), None).expect("fits");
        let refused =
            capacity.take(&machine(1), host(1280), None).expect_err("1020 of 1024 MiB are promised");
        insta::assert_snapshot!(refused, @"not enough memory: the machine takes 5 MiB, 1020 MiB are promised already (machines: 2), and this host's machines may have 1024 MiB together (100 % of 1280 MiB, less a reserve of 256 MiB)");
        drop(first);
        capacity.take(&machine(504), host(1280), None).expect("fits again");
    }

    #[test]
    fn a_ratio_stretches_and_shrinks_what_is_promised() {
        let twice = limited(200);
        let _one = twice.take(&machine(1000), host(1000), None).expect("fits");
        twice.take(&machine(736), host(1000), None).expect("2000 MiB less the reserve are 1744");
        twice.take(&machine(737), host(1000), None).expect_err("a MiB too many");
        twice.take(&machine(1001), host(1000), None).expect_err("no machine is larger than its host");
        limited(50)
            .take(&machine(300), host(1000), None)
            .expect_err("half as much, less the reserve, is 244 MiB");
        limited(100).take(&machine(16), host(200), None).expect_err("the reserve is more than there is");
    }

    #[test]
    fn without_a_limit_a_machine_must_fit_by_itself() {
        let capacity = Capacity::new(MemoryOvercommit::Unlimited);
        let _one = capacity.take(&machine(100), host(100), None).expect("fits");
        let _two = capacity.take(&machine(100), host(100), None).expect("nothing is added up");
        let refused = capacity.take(&machine(101), host(100), None).expect_err("too large");
        insta::assert_snapshot!(refused, @"not enough memory: the machine is to have 101 MiB, this host has 100 MiB in all");
        limited(100).take(&machine(1 << 20), None, None).expect("a host that does not say refuses nothing");
    }

    #[test]
    fn huge_pages_are_the_kernels_to_promise() {
        let aside = Some(HostMemory { total: Bytes::from_mib(4096), huge_pages: Bytes::from_mib(3072) });
        let backing = MemoryBacking::HugePages(HugePageSize::TwoMib);
        let huge = of(MemorySpec { backing, ..memory(Bytes::from_mib(3072)) });
        limited(100).take(&huge, aside, None).expect("only what is beside them counts");
        limited(100).take(&machine(800), aside, None).expect_err("1024 MiB are left, less the reserve");
    }

    #[test]
    fn this_hosts_memory_is_read() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\nHugetlb:            2048 kB\n";
        let read = HostMemory { total: Bytes::new(24_684_084 << 10), huge_pages: Bytes::from_mib(2) };
        assert_eq!(HostMemory::parse(text), Some(read));
        assert_eq!(HostMemory::parse("MemTotal: many kB\n"), None);
        assert!(HostMemory::observe().is_some_and(|memory| memory.total > memory.huge_pages));
    }

    proptest! {
        #[test]
        fn never_more_is_promised_than_the_host_carries(
            total in any::<u64>(), huge_pages in any::<u64>(), percent in 1_u32..=10_000,
            steps in proptest::collection::vec(prop_oneof![
                (0_u64..1 << 44).prop_map(Some), (0_u64..1 << 32).prop_map(Some), Just(None),
                any::<u64>().prop_map(Some),
            ], 0..40),
        ) {
            let host = HostMemory { total: Bytes::new(total), huge_pages: Bytes::new(huge_pages) };
            let capacity = limited(percent);
            let most = carried(Bytes::new(total.saturating_sub(huge_pages)), percent);
            let mut shares: Vec<Share> = Vec::new();
            for step in steps {
                match step {
                    None => drop(shares.pop()),
                    Some(size) => {
                        let footprint = of(memory(Bytes::new(size)));
                        let before = *capacity.promised();
                        match capacity.take(&footprint, Some(host), None) {
                            Ok(share) => shares.push(share),
                            Err(CapacityError::Overcommitted { .. }) => {
                                prop_assert_eq!(*capacity.promised(), before, "a refusal takes nothing");
                                prop_assert!(sum(before.memory, footprint.ordinary_memory()) > most);
                            }
                            Err(CapacityError::LargerThanHost { .. }) => {
                                prop_assert_eq!(*capacity.promised(), before, "a refusal takes nothing");
                                prop_assert!(size > total);
                            }
                        }
                    }
                }
                let promised = *capacity.promised();
                prop_assert!(promised.memory <= most || shares.is_empty());
                prop_assert_eq!(promised.machines, shares.len() as u64);
                prop_assert_eq!(promised.memory.get(), shares.iter().map(|share| share.memory.get()).sum::<u64>());
            }
            shares.clear();
            prop_assert_eq!(*capacity.promised(), Promised::default());
        }
    }
}

//! What a machine needs of its host, as a function of what it is made of.
//!
//! The figures are upper bounds that were measured with processes of a release build, not promises: what a guest makes its
//! devices do at the same time is bounded by its queues, and counted as if it did all of it.

use serde::{Deserialize, Serialize};

use crate::{Bytes, DiskFormat, MachineSpec, MemoryBacking, MemorySpec};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// A process with no machine in it: its code, heap and threads, and what the kernel keeps for them.
const PROCESS: u64 = 6 * MIB;
/// A vCPU: its thread's stacks, and its state in KVM.
const VCPU: u64 = 256 * KIB;
/// A queue that this process serves: its ring of the kernel, its buffers, what is on its way.
const QUEUE: u64 = 256 * KIB;
/// A descriptor of a queue: the vectors and the state of a request that is on its way.
const DESCRIPTOR: u64 = 256;
/// What is kept in memory of a qcow2 image's tables.
const QCOW2_TABLES: u64 = 4 * MIB;
/// The console's newest output, and what is typed.
const CONSOLE: u64 = MIB;
/// Page tables of the process and of KVM: eight bytes a page in each.
const PAGE_TABLE_PART: u64 = 4096 / 16;
/// Threads of a process beside those of vCPUs and disks.
const THREADS: u32 = 8;
/// Descriptors of a process beside those of vCPUs, disks and interfaces.
const DESCRIPTORS: u32 = 48;

/// What a machine needs of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Its guest's memory.
    pub memory: MemorySpec,
    /// What its process takes besides.
    pub overhead: Bytes,
    /// The most threads of its process.
    pub threads: u32,
    /// The most descriptors that its process has open.
    pub descriptors: u32,
    /// Its vCPUs. Of a machine that was noted before they were counted, none.
    #[serde(default)]
    pub vcpus: u32,
}

impl Footprint {
    /// That of a machine of which only the memory is known.
    pub fn of_memory(memory: MemorySpec) -> Self {
        let overhead = Bytes::new(PROCESS + VCPU + CONSOLE + page_tables(memory));
        Self { memory, overhead, threads: THREADS + 1, descriptors: DESCRIPTORS, vcpus: 1 }
    }

    /// What it takes of memory that is not of huge pages: those the kernel promises itself, or refuses.
    pub fn ordinary_memory(&self) -> Bytes {
        match self.memory.backing {
            MemoryBacking::HugePages(_) => self.overhead,
            MemoryBacking::Automatic
            | MemoryBacking::SharedMemfd
            | MemoryBacking::AnonymousHuge
            | MemoryBacking::AnonymousMergeable => {
                Bytes::new(self.memory.size.get().saturating_add(self.overhead.get()))
            }
        }
    }
}

fn page_tables(memory: MemorySpec) -> u64 {
    memory.size.get() / PAGE_TABLE_PART
}

impl<F> MachineSpec<F> {
    /// What it needs of its host.
    pub fn footprint(&self) -> Footprint {
        let vcpus = u32::from(self.cpus.boot_vcpus);
        let mut bytes = PROCESS + CONSOLE + page_tables(self.memory) + VCPU * u64::from(vcpus);
        let (mut threads, mut descriptors) = (THREADS + vcpus, DESCRIPTORS + 4 * vcpus);
        let queues = |count: u32, size: u16| u64::from(count) * (QUEUE + DESCRIPTOR * u64::from(size));
        for disk in &self.disks {
            let count = u32::from(disk.options.queue_count.get());
            bytes += queues(count, disk.queue_size);
            bytes += if disk.format == DiskFormat::Qcow2 { QCOW2_TABLES } else { 0 };
            // A queue without io_uring has a thread of its own.
            threads += count;
            descriptors += 4 + 4 * count;
        }
        for nic in &self.nics {
            let count = 2 * u32::try_from(nic.taps.len()).unwrap_or(u32::MAX).min(u32::from(u16::MAX));
            bytes += queues(count, nic.queue_size);
            descriptors += 2 + 4 * count;
        }
        Footprint { memory: self.memory, overhead: Bytes::new(bytes), threads, descriptors, vcpus }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(mib: u64) -> MemorySpec {
        MemorySpec { size: Bytes::from_mib(mib), backing: MemoryBacking::SharedMemfd, prefault: false }
    }

    #[test]
    fn page_tables_grow_with_the_guest() {
        let of = |mib| Footprint::of_memory(memory(mib)).overhead.get();
        assert_eq!(of(1024) - of(512), 2 * MIB, "eight bytes a page, twice");
    }

    #[test]
    fn huge_pages_are_no_ordinary_memory() {
        let huge =
            MemorySpec { backing: MemoryBacking::HugePages(crate::HugePageSize::TwoMib), ..memory(512) };
        let footprint = Footprint::of_memory(huge);
        assert_eq!(footprint.ordinary_memory(), footprint.overhead);
    }

    proptest! {
        #[test]
        fn no_size_overflows(size: u64) {
            let memory = MemorySpec { size: Bytes::new(size), ..memory(0) };
            prop_assert!(Footprint::of_memory(memory).ordinary_memory() >= Bytes::new(size));
        }
    }
}

//! Whether a machine fits on a host beside those that are there. Pure.

use jail::UserRange;
use rustix::process::geteuid;
use thiserror::Error;
use vm_model::{Bytes, Footprint};

use super::demand::Demand;
use super::resources::{HostMemory, HostResources, Most};
use crate::vms::{MemoryOvercommit, Placement, VmManagerConfig};

/// Memory that is left to the worker and the host's other programs.
const MEMORY_RESERVE: Bytes = Bytes::from_mib(256);
/// Threads that are left to them.
const THREAD_RESERVE: u64 = 512;
/// Descriptors that are left to what the worker does beside its machines: its clients, its networks, its files.
const DESCRIPTOR_RESERVE: u64 = 256;
/// Descriptors that the worker itself has open for a machine in a process apart: its socket, its process, its console.
const WORKER_DESCRIPTORS: u64 = 16;

/// How much machines may be promised together, and where they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CapacityRules {
    pub(crate) memory: MemoryOvercommit,
    /// How many vCPUs there may be for each processor.
    pub(crate) vcpus_per_processor: u32,
    pub(crate) machines: MachineProcesses,
    /// Users of jails, where each machine's process takes one.
    pub(crate) users: Option<UserRange>,
}

/// Whose threads and descriptors are those of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineProcesses {
    /// Those of this process.
    This,
    /// Those of other processes.
    Apart,
}

/// Why a machine is not started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
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
    /// Together with those that run it is more memory than may be promised.
    #[error(
        "not enough memory: the machine takes {} MiB, {} MiB are promised already (machines: {machines}), and this \
         host's machines may have {} MiB together ({percent} % of {} MiB, less a reserve of {} MiB)",
        mib(*wanted),
        mib(*promised),
        mib(*capacity),
        mib(*total),
        mib(MEMORY_RESERVE)
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
    /// Together with those that run it is more of something that is counted than there may be.
    #[error(
        "not enough {counted}: the machine takes {wanted}, {promised} are promised already (machines: {machines}), and this \
         host's machines may have {capacity} together ({reckoned})"
    )]
    Exhausted {
        /// What is counted.
        counted: &'static str,
        /// What it takes.
        wanted: u64,
        /// Machines that have a share.
        machines: u64,
        /// Their shares.
        promised: u64,
        /// What all may have.
        capacity: u64,
        /// How that was reckoned, and what to change for more.
        reckoned: String,
    },
    /// The kernel would not promise it all that its guest's memory is to lie on.
    #[error(
        "not enough huge pages of {size}: the machine takes {wanted}, and {available} are free{} (vm.nr_hugepages)",
        given_back(*freed)
    )]
    TooFewHugePages {
        /// Of one page.
        size: Bytes,
        /// Pages that it takes.
        wanted: u64,
        /// Pages that there are.
        available: u64,
        /// Pages that are given back before.
        freed: u64,
    },
    /// Its process could not open what it needs.
    #[error(
        "not enough descriptors: the machine needs up to {wanted}, and a process may have {most} open here (RLIMIT_NOFILE of \
         the worker; LimitNOFILE= of its service)"
    )]
    ProcessTooSmall {
        /// What it needs.
        wanted: u64,
        /// What there may be.
        most: u64,
    },
}

impl CapacityRules {
    /// Those of a worker with the settings `config`.
    pub(crate) fn of(config: &VmManagerConfig) -> Self {
        let machines = match config.placement {
            // Those that are isolated strictly are few.
            Placement::InThisProcess | Placement::StrictApart(_) => MachineProcesses::This,
            Placement::HostProcesses(_) => MachineProcesses::Apart,
        };
        let users = match &config.placement {
            Placement::HostProcesses(hosts) if hosts.vms_per_process.get() == 1 && geteuid().is_root() => {
                hosts.jail.map(|jail| jail.users)
            }
            Placement::HostProcesses(_) | Placement::InThisProcess | Placement::StrictApart(_) => None,
        };
        let VmManagerConfig { memory_overcommit: memory, vcpus_per_processor, .. } = *config;
        Self { memory, vcpus_per_processor, machines, users }
    }

    /// Whether a machine with `footprint` may start on `host` beside those that have `promised`.
    ///
    /// # Errors
    /// The first thing of which there is too little.
    pub(super) fn admit(
        &self,
        host: &HostResources,
        promised: &Demand,
        footprint: &Footprint,
    ) -> Result<(), CapacityError> {
        let wanted = Demand::of(footprint);
        if let Some(memory) = host.memory {
            self.admit_memory(memory, promised, footprint)?;
        }
        if let Some(limit) = &host.threads {
            admit_threads(limit, promised, &wanted)?;
        }
        if let Some(most) = host.descriptors {
            self.admit_descriptors(most, promised, &wanted)?;
        }
        if let Some(processors) = host.processors {
            self.admit_vcpus(processors, promised, &wanted)?;
        }
        self.users.map_or(Ok(()), |users| admit_users(users, promised, &wanted))
    }

    fn admit_memory(
        &self,
        host: HostMemory,
        promised: &Demand,
        footprint: &Footprint,
    ) -> Result<(), CapacityError> {
        let (guest, wanted) = (footprint.memory.size, footprint.ordinary_memory());
        if guest > host.total {
            return Err(CapacityError::LargerThanHost { wanted: guest, total: host.total });
        }
        let MemoryOvercommit::Percent(percent) = self.memory else { return Ok(()) };
        let total = host.ordinary();
        let capacity = carried(total, percent);
        let Demand { machines, memory: promised, .. } = *promised;
        if promised.get().saturating_add(wanted.get()) <= capacity.get() {
            return Ok(());
        }
        Err(CapacityError::Overcommitted { wanted, machines, promised, capacity, percent, total })
    }

    /// Of the process that has the machine, and of this one.
    fn admit_descriptors(&self, most: u64, promised: &Demand, wanted: &Demand) -> Result<(), CapacityError> {
        if wanted.descriptors > most {
            return Err(CapacityError::ProcessTooSmall { wanted: wanted.descriptors, most });
        }
        let in_this_process = |demand: &Demand| match self.machines {
            MachineProcesses::This => demand.descriptors,
            MachineProcesses::Apart => demand.machines.saturating_mul(WORKER_DESCRIPTORS),
        };
        fits(
            in_this_process(wanted),
            in_this_process(promised),
            most.saturating_sub(DESCRIPTOR_RESERVE),
            || Count {
                counted: "descriptors of the worker",
                machines: promised.machines,
                reckoned: format!(
                    "RLIMIT_NOFILE {most}, less a reserve of {DESCRIPTOR_RESERVE}; LimitNOFILE= of its service"
                ),
            },
        )
    }

    fn admit_vcpus(&self, processors: u64, promised: &Demand, wanted: &Demand) -> Result<(), CapacityError> {
        let each = self.vcpus_per_processor;
        fits(wanted.vcpus, promised.vcpus, processors.saturating_mul(each.into()), || Count {
            counted: "vCPUs",
            machines: promised.machines,
            reckoned: format!("processors: {processors}; limits.vcpus_per_processor: {each}"),
        })
    }

    /// How much memory machines may be promised together; `None` where that is not limited.
    pub(super) fn assignable_memory(&self, host: HostMemory) -> Option<Bytes> {
        match self.memory {
            MemoryOvercommit::Percent(percent) => Some(carried(host.ordinary(), percent)),
            MemoryOvercommit::Unlimited => None,
        }
    }
}

fn admit_threads(limit: &Most, promised: &Demand, wanted: &Demand) -> Result<(), CapacityError> {
    let Most { most, by } = limit;
    fits(wanted.threads, promised.threads, most.saturating_sub(THREAD_RESERVE), || Count {
        counted: "threads",
        machines: promised.machines,
        reckoned: format!("{most} by {by}, less a reserve of {THREAD_RESERVE}"),
    })
}

fn admit_users(users: UserRange, promised: &Demand, wanted: &Demand) -> Result<(), CapacityError> {
    let (first, last) = users.bounds();
    fits(wanted.machines, promised.machines, u64::from(last - first) + 1, || Count {
        counted: "users for jails",
        machines: promised.machines,
        reckoned: format!("jail_users: {users}"),
    })
}

/// What is said where something that is counted does not suffice.
struct Count {
    counted: &'static str,
    machines: u64,
    reckoned: String,
}

fn fits(
    wanted: u64,
    promised: u64,
    capacity: u64,
    told: impl FnOnce() -> Count,
) -> Result<(), CapacityError> {
    if promised.saturating_add(wanted) <= capacity {
        return Ok(());
    }
    let Count { counted, machines, reckoned } = told();
    Err(CapacityError::Exhausted { counted, wanted, machines, promised, capacity, reckoned })
}

impl HostMemory {
    /// What is not set aside as huge pages.
    fn ordinary(self) -> Bytes {
        Bytes::new(self.total.get().saturating_sub(self.huge_pages.get()))
    }
}

/// What machines may have together on a host with `total`.
pub(super) fn carried(total: Bytes, percent: u32) -> Bytes {
    let scaled = u128::from(total.get()) * u128::from(percent) / 100;
    Bytes::new(u64::try_from(scaled).unwrap_or(u64::MAX).saturating_sub(MEMORY_RESERVE.get()))
}

fn given_back(pages: u64) -> &'static str {
    if pages == 0 { "" } else { " with those that are given back before" }
}

/// Rounded up, so that what does not fit does not look as if it did.
fn mib(bytes: Bytes) -> u64 {
    bytes.get().div_ceil(1 << 20)
}

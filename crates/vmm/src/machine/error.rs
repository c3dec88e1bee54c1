//! Why a machine could not be built or paused.

use devices::bus::BusError;
use devices::virtio::balloon::BalloonTargetError;
use devices::virtio::block::DiskError;
use hypervisor::VmError;
use thiserror::Error;
use vm_model::FailureKind;

use crate::boot::LoadError;
use crate::memory::MemoryError;
use crate::topology::TopologyError;
use crate::vcpu::{AffinityError, CpuSetupError};

/// Why a machine could not be built. Nothing of it is left.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The description asks for a number of vCPUs that the host does not have.
    #[error("{vcpus} vCPUs are not possible: 1 to {most} are accepted on this host")]
    Vcpus {
        /// The number of vCPUs in the description.
        vcpus: u8,
        /// The most that the host's KVM accepts.
        most: u32,
    },
    /// The vCPUs cannot be arranged or placed as asked for.
    #[error("the processors are not possible as described")]
    Processors(#[source] ProcessorsError),
    /// The description has more devices than the bus has slots.
    #[error("{devices} PCI devices are too many: at most {most} are accepted")]
    TooManyDevices {
        /// The number of devices in the description.
        devices: usize,
        /// Free slots on the bus.
        most: usize,
    },
    /// Memory ends past what the guest's CPU can address.
    #[error("memory that ends at {end:#x} is beyond the guest's {bits} physical address bits")]
    AddressBits {
        /// The last address.
        end: u64,
        /// The address bits of the guest's CPU.
        bits: u8,
    },
    /// Guest memory could not be allocated.
    #[error("guest memory could not be had")]
    Memory(#[source] MemoryError),
    /// What the machine boots is unusable.
    #[error("the guest cannot be booted")]
    Load(#[source] LoadError),
    /// KVM refused a step of the machine's set-up.
    #[error("KVM refused {step}")]
    Hypervisor {
        /// The step.
        step: &'static str,
        /// The underlying error.
        #[source]
        source: VmError,
    },
    /// The host's CPUID could not be read.
    #[error("the host's supported CPUID leaves could not be read")]
    Cpuid(#[source] hypervisor::OpenError),
    /// A vCPU could not be made ready.
    #[error("vCPU {index} could not be made ready")]
    CpuSetup {
        /// The vCPU's index.
        index: u8,
        /// The underlying error.
        #[source]
        source: CpuSetupError,
    },
    /// A device could not be made.
    #[error("device {device} could not be made")]
    Device {
        /// Its name: a disk's or interface's id, or what it is.
        device: String,
        /// The underlying error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two devices claim the same addresses: the layout is wrong.
    #[error("the address layout is inconsistent")]
    Layout(#[source] BusError),
    /// The event loop could not be set up.
    #[error("the event loop could not watch {what}")]
    EventLoop {
        /// The descriptor.
        what: &'static str,
        /// The underlying error.
        #[source]
        source: std::io::Error,
    },
}

impl BuildError {
    /// Whose fault it is, which decides whether another try can help.
    #[must_use]
    pub fn failure_kind(&self) -> FailureKind {
        match self {
            Self::Vcpus { .. } | Self::TooManyDevices { .. } | Self::AddressBits { .. } => {
                FailureKind::Artifact
            }
            Self::Processors(error) => error.failure_kind(),
            Self::Load(error) => match error {
                LoadError::Read { .. } | LoadError::Write { .. } => FailureKind::Host,
                LoadError::NotAFile { .. }
                | LoadError::UnknownFormat { .. }
                | LoadError::NoElfEntry { .. }
                | LoadError::No64BitEntry { .. }
                | LoadError::Damaged { .. }
                | LoadError::Load(_)
                | LoadError::KernelDoesNotFit { .. }
                | LoadError::InitrdDoesNotFit { .. }
                | LoadError::CommandLine { .. } => FailureKind::Artifact,
            },
            Self::Memory(
                MemoryError::Size { .. }
                | MemoryError::PartialHugePage { .. }
                | MemoryError::BalloonOnHugePages,
            ) => FailureKind::Artifact,
            Self::Memory(
                MemoryError::HugePages { .. }
                | MemoryError::Create { .. }
                | MemoryError::Map { .. }
                | MemoryError::Prefault { .. },
            )
            | Self::Hypervisor { .. }
            | Self::Cpuid(_)
            | Self::CpuSetup { .. }
            | Self::EventLoop { .. } => FailureKind::Host,
            Self::Device { source, .. } => {
                source.downcast_ref::<DiskError>().map_or(FailureKind::Host, DiskError::failure_kind)
            }
            Self::Memory(MemoryError::Undecided { .. }) | Self::Layout(_) => FailureKind::Machine,
        }
    }
}

/// Why vCPUs cannot be arranged or placed as asked for.
#[derive(Debug, Error)]
pub enum ProcessorsError {
    /// There is no such topology.
    #[error(transparent)]
    Topology(TopologyError),
    /// The vCPUs cannot be placed on this host's CPUs.
    #[error(transparent)]
    Affinity(AffinityError),
}

impl ProcessorsError {
    fn failure_kind(&self) -> FailureKind {
        match self {
            Self::Topology(_) | Self::Affinity(AffinityError::Nowhere { .. }) => FailureKind::Artifact,
            // Another host has other CPUs, and this one may have more tomorrow.
            Self::Affinity(
                AffinityError::Unknown(_) | AffinityError::Absent { .. } | AffinityError::NotAllowed { .. },
            ) => FailureKind::Host,
        }
    }
}

/// Why a balloon's target could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BalloonChangeError {
    /// There is none.
    #[error("the machine has no balloon")]
    Missing,
    /// The guest does not have that much.
    #[error(transparent)]
    Target(BalloonTargetError),
}

/// Why an interface's link was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkChangeError {
    /// There is no such interface.
    #[error("the machine has no interface {nic}")]
    Missing {
        /// Its name.
        nic: String,
    },
    /// Its driver does not know announcements, or is not there.
    #[error("the guest's driver of interface {nic} cannot be asked for announcements")]
    NoAnnouncements {
        /// Its name.
        nic: String,
    },
}

/// There is no virtio console to be resized; a serial port has no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the machine has no virtio console")]
pub struct NoConsole;

/// Why a machine could not be paused. It goes on running.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PauseError {
    /// It was not started, or has ended.
    #[error("the machine does not run")]
    NotRunning,
    /// A vCPU did not leave the guest in time.
    #[error("a vCPU did not leave the guest in time")]
    VcpuTimeout,
    /// A device still had I/O in flight.
    #[error("device {device} still had requests in flight at the deadline")]
    DrainTimeout {
        /// Its name.
        device: String,
    },
}

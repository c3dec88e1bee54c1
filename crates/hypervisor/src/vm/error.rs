//! Why an operation on a machine failed, and what it was about.

use std::fmt;
use std::io;

use super::{DoorbellAddress, DoorbellValue};

/// Whether an event descriptor was being attached or detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Attached.
    Add,
    /// Detached.
    Remove,
}

impl fmt::Display for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Add => "registering",
            Self::Remove => "unregistering",
        })
    }
}

/// Why an operation on a machine failed.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The machine could not be created.
    #[error("creating a virtual machine failed")]
    Create(#[source] io::Error),
    /// An address that the kernel needs below 4 GiB was refused.
    #[error("placing the {what} at guest address {address:#x} failed")]
    Address {
        /// What was to be placed.
        what: &'static str,
        /// Where.
        address: u64,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A memory region was refused.
    #[error(
        "adding {size:#x} bytes of memory at guest address {guest_address:#x} as slot {slot} failed: slots are \
         page-aligned and do not overlap"
    )]
    Memory {
        /// The slot's number.
        slot: u32,
        /// Where in the guest.
        guest_address: u64,
        /// Bytes.
        size: u64,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The machine has all the memory slots that the kernel gives it.
    #[error("a machine has at most {limit} memory slots on this host")]
    MemorySlots {
        /// How many there may be.
        limit: u32,
    },
    /// The interrupt controllers come before the first vCPU.
    #[error("the irqchip must be created before the first vCPU, but there are {vcpus} vCPUs")]
    IrqchipAfterVcpu {
        /// How many there are.
        vcpus: u32,
    },
    /// The interrupt controllers could not be created.
    #[error("creating the in-kernel irqchip failed")]
    Irqchip(#[source] io::Error),
    /// A vCPU could not be created.
    #[error("creating vCPU {index} failed: this host allows {limit} vCPUs in a machine")]
    Vcpu {
        /// Its index, which is also its APIC id.
        index: u8,
        /// How many vCPUs a machine may have.
        limit: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A doorbell was refused.
    #[error("{registration} a doorbell at {address:x?} for {value:x?} failed")]
    Doorbell {
        /// Attached or detached.
        registration: Registration,
        /// The doorbell's address.
        address: DoorbellAddress,
        /// The writes it listens to.
        value: DoorbellValue,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// An interrupt descriptor was refused.
    #[error("{registration} an event descriptor for interrupt {gsi} failed")]
    Irqfd {
        /// Attached or detached.
        registration: Registration,
        /// The global system interrupt.
        gsi: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The routing table was refused.
    #[error("setting {routes} interrupt routes failed: KVM takes {limit} at most")]
    Routing {
        /// How many were given.
        routes: usize,
        /// How many there may be.
        limit: usize,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The clock could not be read or set.
    #[error("{access} the machine's clock failed")]
    Clock {
        /// `reading` or `setting`.
        access: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

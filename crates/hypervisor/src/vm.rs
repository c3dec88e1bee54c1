//! One virtual machine: its memory slots, interrupt controllers and clock.
//!
//! Doorbells and interrupts are in `events`. A [`Vm`] can be shared between threads; every method takes `&self`.
//! vCPUs are made here and live on their own; what the guest's addresses mean is left to the caller.

#![expect(unsafe_code, reason = "handing the kernel a host address as guest memory is inherently unsafe")]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{kvm_clock_data, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::cause;
use crate::facts::HostFacts;
use crate::statistics::KnownLayout;
use crate::vcpu::Vcpu;

mod error;
mod events;

pub use error::{Registration, VmError};
pub use events::{DoorbellAddress, DoorbellValue};

/// Guest-physical address of the three pages that real mode needs on some Intel CPUs.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// Guest-physical address of the page below them, for the identity map.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// `KVM_CREATE_VM` answers EINTR when a signal is pending; this many in a row are no accident.
const CREATE_ATTEMPTS: u32 = 16;

/// A virtual machine. The kernel's side of it ends when this and every [`Vcpu`] made from it are dropped.
#[derive(Debug)]
pub struct Vm {
    shared: Arc<VmShared>,
}

/// What a machine and its vCPUs hold together. The descriptor is declared, and so closed, before the memory
/// that the kernel reaches through it.
#[derive(Debug)]
pub(crate) struct VmShared {
    pub(crate) fd: VmFd,
    pub(crate) facts: HostFacts,
    pub(crate) statistics: Arc<KnownLayout>,
    /// Taken while the machine is put together, never on a path that a running guest waits for.
    setup: Mutex<Setup>,
}

#[derive(Default)]
struct Setup {
    memory: Vec<Arc<dyn Send + Sync>>,
    vcpus: u32,
    irqchip: bool,
}

impl VmShared {
    pub(crate) fn has_irqchip(&self) -> bool {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner).irqchip
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Setup")
            .field("memory_slots", &self.memory.len())
            .field("vcpus", &self.vcpus)
            .field("irqchip", &self.irqchip)
            .finish()
    }
}

/// The machine's clock, which kvmclock shows to the guest. It goes on with the host's time, whether vCPUs run or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since the machine was created, or since a time that it was set to.
    pub nanoseconds: u64,
}

impl Vm {
    pub(crate) fn create(kvm: &Kvm, facts: HostFacts, statistics: Arc<KnownLayout>) -> Result<Self, VmError> {
        let fd = create_uninterrupted(kvm).map_err(VmError::Create)?;
        fd.set_tss_address(TSS_ADDRESS).map_err(|errno| VmError::Address {
            what: "task state segment",
            address: TSS_ADDRESS as u64,
            source: cause(errno),
        })?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(|errno| VmError::Address {
            what: "identity map",
            address: IDENTITY_MAP_ADDRESS,
            source: cause(errno),
        })?;
        Ok(Self { shared: Arc::new(VmShared { fd, facts, statistics, setup: Mutex::default() }) })
    }

    /// Gives the guest `region` as its next memory slot. The mapping stays alive until this machine and its
    /// vCPUs are gone.
    ///
    /// # Errors
    /// [`VmError::Memory`] when the region overlaps another or is not page-aligned, [`VmError::MemorySlots`]
    /// when there is no slot left.
    pub fn add_memory<B>(&self, region: Arc<GuestRegionMmap<B>>) -> Result<(), VmError>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        let mut setup = self.shared.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.shared.facts.memory_slots;
        let slot = u32::try_from(setup.memory.len())
            .ok()
            .filter(|slot| *slot < limit)
            .ok_or(VmError::MemorySlots { limit })?;
        let guest_address = region.start_addr().0;
        let size = region.size() as u64;
        let description = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest_address,
            memory_size: size,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is exactly that of `region`'s mapping. The reference to it that is stored below, in
        // what the machine and all its vCPUs hold, keeps it mapped for as long as a guest can run. Guest and
        // host share it under vm-memory's contract: the host's accesses are volatile or atomic.
        unsafe { self.shared.fd.set_user_memory_region(description) }.map_err(|errno| VmError::Memory {
            slot,
            guest_address,
            size,
            source: cause(errno),
        })?;
        setup.memory.push(region);
        Ok(())
    }

    /// Creates the full in-kernel irqchip: two PICs, an I/O APIC, and an APIC with each later vCPU. No PIT.
    ///
    /// # Errors
    /// [`VmError::IrqchipAfterVcpu`] when there is a vCPU already, [`VmError::Irqchip`] when the kernel refuses.
    pub fn create_irqchip(&self) -> Result<(), VmError> {
        let mut setup = self.shared.setup.lock().unwrap_or_else(PoisonError::into_inner);
        if setup.vcpus > 0 {
            return Err(VmError::IrqchipAfterVcpu { vcpus: setup.vcpus });
        }
        self.shared.fd.create_irq_chip().map_err(|errno| VmError::Irqchip(cause(errno)))?;
        setup.irqchip = true;
        Ok(())
    }

    /// Creates the vCPU with this index, which is also its APIC id. May be called from several threads at once.
    ///
    /// # Errors
    /// [`VmError::Vcpu`] when the index is taken or beyond the host's limit.
    pub fn create_vcpu(&self, index: u8) -> Result<Vcpu, VmError> {
        self.create_vcpu_with_apic_id(index, index)
    }

    /// As [`create_vcpu`](Self::create_vcpu), with an APIC id of its own, which must be free instead. The index is
    /// what errors and logs call it.
    ///
    /// # Errors
    /// [`VmError::Vcpu`] when the id is taken or beyond the host's limit.
    pub fn create_vcpu_with_apic_id(&self, index: u8, apic_id: u8) -> Result<Vcpu, VmError> {
        self.shared.setup.lock().unwrap_or_else(PoisonError::into_inner).vcpus += 1;
        let created = self.shared.fd.create_vcpu(u64::from(apic_id));
        match created {
            Ok(fd) => Ok(Vcpu::new(fd, index, Arc::clone(&self.shared))),
            Err(errno) => {
                self.shared.setup.lock().unwrap_or_else(PoisonError::into_inner).vcpus -= 1;
                let limit = self.shared.facts.max_vcpus;
                Err(VmError::Vcpu { index, limit, source: cause(errno) })
            }
        }
    }

    /// Reads the machine's clock.
    ///
    /// # Errors
    /// [`VmError::Clock`] when the kernel refuses.
    pub fn clock(&self) -> Result<Clock, VmError> {
        let data = self
            .shared
            .fd
            .get_clock()
            .map_err(|errno| VmError::Clock { access: "reading", source: cause(errno) })?;
        Ok(Clock { nanoseconds: data.clock })
    }

    /// Sets the machine's clock, for a machine that goes on where another one stopped, as one restored from a snapshot.
    ///
    /// A pause needs no setting: the clock goes on through it, so that the guest's date is right afterwards. Set back to
    /// where the pause began, it would leave the guest's date behind by the pause's length.
    ///
    /// # Errors
    /// [`VmError::Clock`] when the kernel refuses.
    pub fn set_clock(&self, clock: Clock) -> Result<(), VmError> {
        let data = kvm_clock_data { clock: clock.nanoseconds, ..Default::default() };
        self.shared
            .fd
            .set_clock(&data)
            .map_err(|errno| VmError::Clock { access: "setting", source: cause(errno) })
    }
}

fn create_uninterrupted(kvm: &Kvm) -> io::Result<VmFd> {
    for _ in 1..CREATE_ATTEMPTS {
        match kvm.create_vm() {
            Err(errno) if errno.errno() == libc::EINTR => {}
            other => return other.map_err(cause),
        }
    }
    kvm.create_vm().map_err(cause)
}

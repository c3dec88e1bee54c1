//! A vCPU made ready: CPUID, the few model-specific registers that kernels expect set, and the registers of the
//! one that starts. The others wait for the guest to start them, as KVM leaves them.

use devices::memory::GuestMemory;
use hypervisor::{CpuId, Vcpu, VcpuError, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_bindings::kvm_lapic_state;
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::registers;
use crate::boot::Entry;
use crate::topology::Topology;
use crate::{cpuid, layout};

/// `IA32_MISC_ENABLE`: fast string operations on (Intel SDM volume 4 §2).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: MTRRs enabled, all memory write-back unless said otherwise. Kernels that find MTRRs off
/// take it for broken firmware.
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// The local APIC's LINT0 register, 32 bits (Intel SDM volume 3 §11.5.1), and its value while it is masked.
const LINT0: usize = 0x350;
const LINT0_MASKED: u32 = 1 << 16;

/// Why a vCPU could not be made ready.
#[derive(Debug, Error)]
pub enum CpuSetupError {
    /// KVM refused a part of its state.
    #[error("the state of a vCPU was refused")]
    State(#[source] VcpuError),
    /// More leaves than KVM takes.
    #[error("{count} CPUID leaves are more than KVM takes")]
    TooManyLeaves {
        /// How many there are.
        count: usize,
    },
    /// Guest memory cannot be written where the descriptor table goes.
    #[error("the descriptor table cannot be written to guest memory at {address:#x}")]
    DescriptorTable {
        /// Where.
        address: u64,
        /// The underlying error.
        #[source]
        source: GuestMemoryError,
    },
}

/// Makes `vcpu` ready. `leaves` are those of the machine of this `topology`; the vCPU with index 0 starts at `entry`.
///
/// # Errors
/// See [`CpuSetupError`].
pub(crate) fn prepare(
    vcpu: &Vcpu,
    leaves: &[kvm_cpuid_entry2],
    topology: &Topology,
    entry: &Entry,
    memory: &GuestMemory,
) -> Result<(), CpuSetupError> {
    let own = cpuid::for_vcpu(leaves, topology, vcpu.index());
    let own = CpuId::from_entries(&own).map_err(|_| CpuSetupError::TooManyLeaves { count: own.len() })?;
    vcpu.set_cpuid(&own).map_err(CpuSetupError::State)?;
    let msrs = [MISC_ENABLE, MTRR_DEFAULT_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    vcpu.set_msrs(&msrs).map_err(CpuSetupError::State)?;
    if vcpu.index() == 0 {
        silence_pic(vcpu)?;
        start_at(vcpu, entry, memory)?;
    }
    Ok(())
}

/// Masks the first vCPU's LINT0, which KVM leaves open to its 8259.
///
/// The tables say that there is no 8259, so that no guest programs it. Its pins are KVM's to drive all the same, with
/// vectors that start at 0: an interrupt before the guest has set up its APIC would look like an exception.
fn silence_pic(vcpu: &Vcpu) -> Result<(), CpuSetupError> {
    let mut apic = vcpu.lapic().map_err(CpuSetupError::State)?;
    mask_lint0(&mut apic);
    vcpu.set_lapic(&apic).map_err(CpuSetupError::State)
}

fn mask_lint0(apic: &mut kvm_lapic_state) {
    for (register, byte) in apic.regs[LINT0..].iter_mut().zip(LINT0_MASKED.to_le_bytes()) {
        *register = byte.cast_signed();
    }
}

fn start_at(vcpu: &Vcpu, entry: &Entry, memory: &GuestMemory) -> Result<(), CpuSetupError> {
    memory
        .write_slice(&registers::descriptor_table(entry), GuestAddress(layout::GDT))
        .map_err(|source| CpuSetupError::DescriptorTable { address: layout::GDT, source })?;
    let mut system = vcpu.sregs().map_err(CpuSetupError::State)?;
    registers::system(&mut system, entry);
    vcpu.set_sregs(&system).map_err(CpuSetupError::State)?;
    vcpu.set_regs(&registers::general(entry)).map_err(CpuSetupError::State)
}

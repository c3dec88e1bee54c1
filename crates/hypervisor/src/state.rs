//! A vCPU's whole state as one value, read and set in the order that the pieces' dependencies ask for.
//!
//! What is in memory, in the interrupt controllers outside the vCPU and in the machine's clock is left to the
//! caller. Nested guests are not carried: nested virtualization is never offered.

use kvm_bindings::{
    CpuId, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use serde::{Deserialize, Serialize};

use crate::registers::XsaveArea;
use crate::vcpu::{Vcpu, VcpuError};

/// The TSC deadline is judged by the TSC, and armed in the APIC: it is set after both.
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// The state of a vCPU, to go on elsewhere: on another thread, in another process, on a host with the same CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VcpuState {
    version: u16,
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    /// Absent on a machine without the in-kernel irqchip.
    lapic: Option<kvm_lapic_state>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// The version of this form. A state of another one is refused by [`Vcpu::restore`].
    pub const VERSION: u16 = 1;

    /// The general registers, for a look at a stuck guest.
    #[must_use]
    pub fn regs(&self) -> &kvm_regs {
        &self.regs
    }

    /// The system registers, likewise.
    #[must_use]
    pub fn sregs(&self) -> &kvm_sregs {
        &self.sregs
    }
}

impl Vcpu {
    /// Reads the whole state. The vCPU must have [completed its pending access](Self::complete_pending_io), or
    /// the access is lost. `msrs` are the registers to carry, usually
    /// [`Hypervisor::saved_msrs`](crate::Hypervisor::saved_msrs); those that this vCPU lacks are left out.
    ///
    /// # Errors
    /// [`VcpuError::State`] naming the piece that the kernel refuses.
    pub fn save(&self, msrs: &[u32]) -> Result<VcpuState, VcpuError> {
        // Reading the run state makes the kernel act on INIT and start-up messages that it holds, which changes
        // the registers: so it comes first. Events come last: reading other pieces may still queue one.
        let mp_state = self.mp_state()?;
        Ok(VcpuState {
            version: VcpuState::VERSION,
            cpuid: self.cpuid()?.as_slice().to_vec(),
            mp_state,
            regs: self.regs()?,
            sregs: self.sregs()?,
            xsave: self.xsave()?.words().to_vec(),
            xcrs: self.xcrs()?,
            debug_regs: self.debug_regs()?,
            lapic: self.has_irqchip().then(|| self.lapic()).transpose()?,
            msrs: self.readable_msrs(msrs)?,
            events: self.vcpu_events()?,
        })
    }

    /// Sets the whole state, on a vCPU that has not run yet.
    ///
    /// # Errors
    /// [`VcpuError::StateVersion`] for a state of another form, [`VcpuError::XsaveSize`], [`VcpuError::Msr`] and
    /// [`VcpuError::State`] for what this host does not take. The vCPU is then half set and of no use.
    pub fn restore(&self, state: &VcpuState) -> Result<(), VcpuError> {
        if state.version != VcpuState::VERSION {
            let (found, expected) = (state.version, VcpuState::VERSION);
            return Err(VcpuError::StateVersion { index: self.index, found, expected });
        }
        let leaves = CpuId::from_entries(&state.cpuid).map_err(|_| VcpuError::State {
            index: self.index,
            access: "setting the CPUID leaves",
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })?;
        // What the CPU has decides what the rest may contain. The APIC's base is a system register, so those come
        // before the APIC.
        self.set_cpuid(&leaves)?;
        self.set_mp_state(state.mp_state)?;
        self.set_regs(&state.regs)?;
        self.set_sregs(&state.sregs)?;
        self.set_xsave(&XsaveArea::from(state.xsave.clone()))?;
        self.set_xcrs(&state.xcrs)?;
        self.set_debug_regs(&state.debug_regs)?;
        if let Some(lapic) = &state.lapic {
            self.set_lapic(lapic)?;
        }
        let is_deadline = |entry: &&kvm_msr_entry| entry.index == IA32_TSC_DEADLINE;
        let deadlines: Vec<_> = state.msrs.iter().filter(is_deadline).copied().collect();
        let others: Vec<_> = state.msrs.iter().filter(|entry| !is_deadline(entry)).copied().collect();
        self.restore_msrs(&others)?;
        self.restore_msrs(&deadlines)?;
        self.set_vcpu_events(&state.events)
    }

    /// Reads those of the registers that there are: the host's list names some that only certain CPUIDs bring.
    fn readable_msrs(&self, registers: &[u32]) -> Result<Vec<kvm_msr_entry>, VcpuError> {
        let mut wanted = registers.to_vec();
        loop {
            match self.msrs(&wanted) {
                Err(VcpuError::Msr { register, .. }) => wanted.retain(|other| *other != register),
                result => return result,
            }
        }
    }

    /// Sets registers; one that refuses the value that it already has is as it should be.
    fn restore_msrs(&self, mut entries: &[kvm_msr_entry]) -> Result<(), VcpuError> {
        loop {
            let (error, register) = match self.set_msrs(entries) {
                Err(error @ VcpuError::Msr { register, .. }) => (error, register),
                result => return result,
            };
            let Some(position) = entries.iter().position(|entry| entry.index == register) else {
                return Err(error);
            };
            let wanted = entries[position].data;
            if self.msrs(&[register])?.first().is_none_or(|present| present.data != wanted) {
                return Err(error);
            }
            entries = &entries[position + 1..];
        }
    }
}

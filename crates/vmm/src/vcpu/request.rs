//! What a vCPU's thread does on request between two entries of the guest. Only that thread can use its vCPU while the
//! guest runs: KVM_RUN holds the vCPU's lock.

use hypervisor::{Vcpu, VcpuError};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use vm_model::{VcpuActivity, VcpuRegisters};

use super::gate::AtGate;

/// What a vCPU's thread is requested to do between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VcpuRequest {
    /// Queue a non-maskable interrupt.
    QueueNmi,
    /// Say where it is.
    ReadRegisters,
}

/// Its answer.
#[derive(Debug)]
pub(crate) enum VcpuAnswer {
    /// A non-maskable interrupt is queued.
    NmiQueued,
    /// Where it is.
    Registers(VcpuRegisters),
    /// The kernel refused.
    Refused(VcpuError),
}

impl AtGate for Vcpu {
    fn parking(&self) {
        // Only a hint to the guest's watchdogs that time went by; a host that refuses it can still pause.
        let _ = self.kvmclock_ctrl();
    }

    fn carry_out(&self, request: VcpuRequest) -> VcpuAnswer {
        match request {
            VcpuRequest::QueueNmi => self.nmi().map_or_else(VcpuAnswer::Refused, |()| VcpuAnswer::NmiQueued),
            VcpuRequest::ReadRegisters => {
                read_registers(self).map_or_else(VcpuAnswer::Refused, VcpuAnswer::Registers)
            }
        }
    }
}

fn read_registers(vcpu: &Vcpu) -> Result<VcpuRegisters, VcpuError> {
    let (state, general, system) = (vcpu.mp_state()?, vcpu.regs()?, vcpu.sregs()?);
    Ok(VcpuRegisters {
        rip: general.rip,
        rsp: general.rsp,
        rflags: general.rflags,
        cr0: system.cr0,
        cr2: system.cr2,
        cr3: system.cr3,
        cr4: system.cr4,
        efer: system.efer,
        activity: match state.mp_state {
            KVM_MP_STATE_RUNNABLE => VcpuActivity::Running,
            KVM_MP_STATE_HALTED => VcpuActivity::Halted,
            // Before the start-up message, or with it on its way.
            _ => VcpuActivity::WaitingForStart,
        },
    })
}

//! For a guest that does not answer any more: where its vCPUs are, and an interrupt that it cannot mask.

use std::time::Instant;

use thiserror::Error;
use vm_model::{VcpuDump, VcpuReport, error_chain};

use super::{Machine, Phase};
use crate::vcpu::{RunningVcpus, VcpuAnswer, VcpuRequest};

/// Why a guest's vCPUs could not be looked at or interrupted.
#[derive(Debug, Error)]
pub enum DiagnosisError {
    /// The machine was not started, or has ended.
    #[error("the machine does not run")]
    NotRunning,
    /// A vCPU did not leave the guest in time; others may have the interrupt.
    #[error("vCPU {index} did not take the interrupt in time")]
    Silent {
        /// The vCPU's index.
        index: u8,
    },
    /// The kernel refused; other vCPUs may have the interrupt.
    #[error("vCPU {index} could not be interrupted")]
    Refused {
        /// The vCPU's index.
        index: u8,
        /// The underlying error.
        #[source]
        source: hypervisor::VcpuError,
    },
}

impl Machine {
    /// Makes each vCPU leave the guest, reads its registers, and lets it go on. Returns a dump for each, by index; a vCPU
    /// that does not leave the guest before `deadline` is reported as silent. Parked vCPUs stay parked.
    ///
    /// # Errors
    /// The machine does not run.
    pub fn dump_vcpus(&mut self, deadline: Instant) -> Result<Vec<VcpuDump>, DiagnosisError> {
        let answers = self.running_vcpus()?.ask(VcpuRequest::ReadRegisters, deadline);
        let report = |answer| match answer {
            Some(VcpuAnswer::Registers(registers)) => VcpuReport::Registers(registers),
            Some(VcpuAnswer::Refused(error)) => VcpuReport::Unreadable { reason: error_chain(&error) },
            Some(VcpuAnswer::NmiQueued) | None => VcpuReport::Silent,
        };
        let dumps = (0..=u8::MAX).zip(answers);
        Ok(dumps.map(|(index, answer)| VcpuDump { index, report: report(answer) }).collect())
    }

    /// Queues a non-maskable interrupt on each vCPU, for a guest that is told to make a crash dump of it. Parked vCPUs
    /// take it when they are resumed, and those that the guest has not started never.
    ///
    /// # Errors
    /// See [`DiagnosisError`].
    pub fn inject_nmi(&mut self, deadline: Instant) -> Result<(), DiagnosisError> {
        let answers = self.running_vcpus()?.ask(VcpuRequest::QueueNmi, deadline);
        for (index, answer) in (0..=u8::MAX).zip(answers) {
            match answer {
                Some(VcpuAnswer::NmiQueued) => {}
                Some(VcpuAnswer::Refused(source)) => return Err(DiagnosisError::Refused { index, source }),
                Some(VcpuAnswer::Registers(_)) | None => return Err(DiagnosisError::Silent { index }),
            }
        }
        Ok(())
    }

    fn running_vcpus(&self) -> Result<&RunningVcpus, DiagnosisError> {
        match &self.phase {
            Phase::Started { vcpus, .. } => Ok(vcpus),
            Phase::Built { .. } | Phase::Ended => Err(DiagnosisError::NotRunning),
        }
    }
}

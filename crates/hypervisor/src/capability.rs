//! What KVM must be able to do for this crate to work at all, and the probe that finds what is missing.
//!
//! The probe is pure over a question-answering port. Optional abilities are facts of the host, not of this list.

use std::fmt;

use kvm_ioctls::Cap;

/// Every capability without which a machine could not be built, run or saved, with the name the kernel's
/// documentation gives it.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IoeventfdNoLength, "KVM_CAP_IOEVENTFD_NO_LENGTH"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// The capabilities that a host's KVM lacks, by the names of the kernel's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCapabilities(Vec<&'static str>);

impl MissingCapabilities {
    /// The missing names, in a fixed order; never empty.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }
}

impl fmt::Display for MissingCapabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(", "))
    }
}

/// Asks `has` for every required capability and collects all that are missing, not the first alone.
pub(crate) fn probe(has: impl Fn(Cap) -> bool) -> Result<(), MissingCapabilities> {
    let missing: Vec<_> =
        REQUIRED.iter().filter(|(capability, _)| !has(*capability)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_host_passes() {
        assert_eq!(probe(|_| true), Ok(()));
    }

    #[test]
    fn all_missing_names_are_listed_at_once() {
        let missing = probe(|capability| !matches!(capability, Cap::Irqfd | Cap::Xcrs)).unwrap_err();
        assert_eq!(missing.names(), ["KVM_CAP_IRQFD", "KVM_CAP_XCRS"]);
        assert_eq!(missing.to_string(), "KVM_CAP_IRQFD, KVM_CAP_XCRS");
    }

    #[test]
    fn an_empty_host_misses_every_required_name_once() {
        let missing = probe(|_| false).unwrap_err();
        let mut names = missing.names().to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REQUIRED.len());
    }
}

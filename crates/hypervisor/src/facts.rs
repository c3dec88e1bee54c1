//! What this host's KVM offers beyond the required minimum: limits and optional abilities, read once.

use kvm_bindings::kvm_xsave;
use kvm_ioctls::Cap;

/// Limits and optional abilities of the host's KVM. All are constant while the module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// How many vCPUs a machine should have at most (`KVM_CAP_NR_VCPUS`: usually the host's online CPUs).
    pub recommended_vcpus: u32,
    /// How many vCPUs a machine may have (`KVM_CAP_MAX_VCPUS`).
    pub max_vcpus: u32,
    /// One more than the highest vCPU index (`KVM_CAP_MAX_VCPU_ID`).
    pub max_vcpu_id: u32,
    /// How many memory slots a machine may have (`KVM_CAP_NR_MEMSLOTS`).
    pub memory_slots: u32,
    /// Bytes of the area that a vCPU shares with the kernel (`KVM_GET_VCPU_MMAP_SIZE`).
    pub vcpu_area_bytes: usize,
    /// The in-kernel APIC emulates the TSC-deadline timer, so the CPUID bit may be set although the supported
    /// list may lack it.
    pub tsc_deadline_timer: bool,
    /// A guest may be given a TSC frequency other than the host's.
    pub tsc_frequency_control: bool,
    /// The TSC frequency of a vCPU can be read.
    pub tsc_frequency_readable: bool,
    /// A paused guest can be told so, which silences its soft-lockup watchdog (`KVM_KVMCLOCK_CTRL`).
    pub kvmclock_ctrl: bool,
    /// The flags that `KVM_SET_CLOCK` understands (`KVM_CLOCK_REALTIME` and the like).
    pub clock_flags: u32,
    /// The flags of the x2APIC interface (`KVM_CAP_X2APIC_API`).
    pub x2apic_flags: u32,
    /// Bytes of a vCPU's XSAVE area, at least 4,096.
    pub xsave_bytes: usize,
}

/// Reads the facts through `check`, which answers as `KVM_CHECK_EXTENSION` does. The fallbacks for an answer of
/// 0 are those of the KVM API documentation.
pub(crate) fn gather(check: impl Fn(Cap) -> i32, vcpu_area_bytes: usize) -> HostFacts {
    let number = |capability| u32::try_from(check(capability)).unwrap_or(0);
    let or = |value: u32, fallback: u32| if value == 0 { fallback } else { value };
    let recommended_vcpus = or(number(Cap::NrVcpus), 4);
    let max_vcpus = or(number(Cap::MaxVcpus), recommended_vcpus);
    HostFacts {
        recommended_vcpus,
        max_vcpus,
        max_vcpu_id: or(number(Cap::MaxVcpuId), max_vcpus),
        memory_slots: or(number(Cap::NrMemslots), 32),
        vcpu_area_bytes,
        tsc_deadline_timer: check(Cap::TscDeadlineTimer) > 0,
        tsc_frequency_control: check(Cap::TscControl) > 0,
        tsc_frequency_readable: check(Cap::GetTscKhz) > 0,
        kvmclock_ctrl: check(Cap::KvmclockCtrl) > 0,
        clock_flags: number(Cap::AdjustClock),
        x2apic_flags: number(Cap::X2ApicApi),
        xsave_bytes: usize::try_from(check(Cap::Xsave2)).unwrap_or(0).max(size_of::<kvm_xsave>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_means_the_documented_minimum() {
        let facts = gather(|_| 0, 4096);
        assert_eq!((facts.recommended_vcpus, facts.max_vcpus, facts.max_vcpu_id), (4, 4, 4));
        assert_eq!((facts.memory_slots, facts.xsave_bytes), (32, 4096));
        assert!(!facts.tsc_deadline_timer);
    }

    #[test]
    fn a_negative_answer_is_an_absent_ability() {
        let facts = gather(|_| -1, 4096);
        assert!(!facts.kvmclock_ctrl && !facts.tsc_frequency_control);
        assert_eq!(facts.clock_flags, 0);
    }

    #[test]
    fn answers_are_kept() {
        let facts = gather(
            |capability| match capability {
                Cap::NrVcpus => 8,
                Cap::MaxVcpus => 1024,
                Cap::MaxVcpuId => 4096,
                Cap::Xsave2 => 11_008,
                Cap::TscDeadlineTimer => 1,
                _ => 0,
            },
            12_288,
        );
        assert_eq!((facts.recommended_vcpus, facts.max_vcpus, facts.max_vcpu_id), (8, 1024, 4096));
        assert_eq!((facts.xsave_bytes, facts.vcpu_area_bytes), (11_008, 12_288));
        assert!(facts.tsc_deadline_timer);
    }
}

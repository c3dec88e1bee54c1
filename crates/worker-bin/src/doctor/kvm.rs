//! KVM: whether it is there, may be used, and runs stock guests.

use hypervisor::{Hypervisor, OpenError};
use vm_model::error_chain;

use super::finding::{Finding, advice, command, commands};
use super::host::Host;

const DEVICE: &str = "KVM";
const GUESTS: &str = "guests";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// What came of opening `/dev/kvm`.
    device: Device,
    /// What the processor brings for virtual machines.
    processor: Processor,
    /// Whether KVM is the software hypervisor that needs nothing of the processor.
    has_pvm: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Device {
    /// It answers and has what machines need.
    Works,
    /// It is not there.
    Absent(String),
    /// The caller may not open it.
    Denied(String),
    /// It cannot be used for another reason.
    Unusable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processor {
    Intel,
    Amd,
    Neither,
}

pub(super) fn look(host: &Host) -> Facts {
    let device = match Hypervisor::open_at(&host.path("/dev/kvm")) {
        Ok(_) => Device::Works,
        Err(problem) => {
            let told = error_chain(&problem);
            match problem {
                OpenError::Absent { .. } => Device::Absent(told),
                OpenError::PermissionDenied { .. } => Device::Denied(told),
                OpenError::Open { .. }
                | OpenError::NotKvm { .. }
                | OpenError::ApiVersion { .. }
                | OpenError::MissingCapabilities { .. }
                | OpenError::Facts { .. } => Device::Unusable(told),
            }
        }
    };
    let text = host.read("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let processor = match (has("vmx"), has("svm")) {
        (true, _) => Processor::Intel,
        (false, true) => Processor::Amd,
        (false, false) => Processor::Neither,
    };
    Facts { device, processor, has_pvm: host.has("/sys/module/kvm_pvm") }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const FIRMWARE: &str = "turn on VT-x or AMD-V in the firmware's setup; where this host is a virtual machine, have \
                            its own host offer nested virtualization";
    let load = match facts.processor {
        Processor::Intel => command("modprobe kvm_intel"),
        Processor::Amd => command("modprobe kvm_amd"),
        Processor::Neither => advice(FIRMWARE),
    };
    match &facts.device {
        Device::Works => {
            vec![Finding::ok(DEVICE, "/dev/kvm can be used, with all that machines need"), guests(facts)]
        }
        Device::Absent(told) => vec![Finding::fail(DEVICE, told, load)],
        Device::Denied(told) => {
            let join = "usermod --append --groups kvm \"$USER\"  # then log in again".to_owned();
            vec![Finding::fail(DEVICE, told, commands([join]))]
        }
        Device::Unusable(told) => {
            vec![Finding::fail(DEVICE, told, advice("run a kernel whose KVM has what is missing"))]
        }
    }
}

/// Whether an unchanged distribution's kernel runs as a guest.
fn guests(facts: &Facts) -> Finding {
    const ELSEWHERE: &str = "for stock guests take a host with vmx or svm in /proc/cpuinfo (hardware, or a virtual \
                             machine with nested virtualization)";
    match (facts.processor, facts.has_pvm) {
        (Processor::Intel, false) => Finding::ok(GUESTS, "the processor has vmx: stock guests run"),
        (Processor::Amd, false) => Finding::ok(GUESTS, "the processor has svm: stock guests run"),
        (Processor::Intel | Processor::Amd | Processor::Neither, true) => Finding::warn(
            GUESTS,
            "KVM is the software hypervisor kvm_pvm: stock guests may not boot, and run slowly",
            advice(ELSEWHERE),
        ),
        (Processor::Neither, false) => Finding::warn(
            GUESTS,
            "KVM works, but the processor shows neither vmx nor svm: stock guests may not boot",
            advice(ELSEWHERE),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Remedy, Verdict};
    use super::super::host::testing::host;
    use super::*;

    fn facts(device: Device, processor: Processor, has_pvm: bool) -> Facts {
        Facts { device, processor, has_pvm }
    }

    #[test]
    fn what_is_missing_is_loaded_by_the_processors_module() {
        for (processor, module) in [(Processor::Intel, "kvm_intel"), (Processor::Amd, "kvm_amd")] {
            let findings = judge(&facts(Device::Absent("gone".to_owned()), processor, false));
            assert_eq!(findings.len(), 1);
            let expected = Remedy::Commands(vec![format!("modprobe {module}")]);
            assert_eq!((findings[0].verdict, findings[0].remedy.as_ref()), (Verdict::Fail, Some(&expected)));
        }
        let without = judge(&facts(Device::Absent("gone".to_owned()), Processor::Neither, false));
        assert!(matches!(&without[0].remedy, Some(Remedy::Advice(text)) if text.contains("firmware")));
    }

    #[test]
    fn a_software_hypervisor_is_told_from_a_processor_with_extensions() {
        let verdict = |processor, has_pvm| judge(&facts(Device::Works, processor, has_pvm))[1].verdict;
        assert_eq!(verdict(Processor::Amd, false), Verdict::Ok);
        assert_eq!(verdict(Processor::Neither, true), Verdict::Warn);
        assert_eq!(verdict(Processor::Neither, false), Verdict::Warn);
    }

    #[test]
    fn a_host_is_looked_at() {
        let (_folder, host) = host(&[("proc/cpuinfo", "flags\t\t: fpu svm\n"), ("sys/module/kvm_pvm/x", "")]);
        let seen = look(&host);
        assert!(matches!(seen.device, Device::Absent(_)), "{seen:?}");
        assert_eq!((seen.processor, seen.has_pvm), (Processor::Amd, true));
    }
}

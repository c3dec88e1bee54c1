//! What this machine offers for virtualisation, and what follows for the outer host. Looks, and decides; starts nothing.

use std::fs::{self, File};

/// Where the outer host's processor takes its virtualisation from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acceleration {
    /// This machine's processor, nested.
    Hardware,
    /// QEMU emulates a processor with AMD's SVM.
    Emulated,
}

impl Acceleration {
    /// How QEMU makes the outer host's processors.
    ///
    /// QEMU's SVM (seen with 7.2 and 10.0) is sound for one processor only. With two, an interrupt that reaches a
    /// processor around `VMRUN` or `#VMEXIT` may be delivered although the global interrupt flag is clear, or twice: the
    /// host takes it with its guest's GS base and overflows its stack, or the guest loses its way. Guests with several
    /// vCPUs run on the one processor. Five-level paging only makes each nested page walk longer.
    pub(crate) fn qemu_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Hardware => &["-enable-kvm", "-cpu", "host", "-smp", "2"],
            Self::Emulated => &["-accel", "tcg", "-cpu", "max,+svm,+npt,-la57", "-smp", "1"],
        }
    }

    /// What else the outer host's kernel is told.
    ///
    /// QEMU's `VMRUN` changes the set of pending interrupts without a lock, so that the timer's interrupt is lost now and
    /// then. A timer that is armed for each event would never be armed again; one that ticks recovers at the next tick.
    pub(crate) fn kernel_parameters(self) -> &'static str {
        match self {
            Self::Hardware => "",
            Self::Emulated => " highres=off nohz=off",
        }
    }
}

/// What this machine says about its virtualisation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Virtualisation {
    cpuinfo: String,
    nested: Option<String>,
    kvm_opens: bool,
}

impl Virtualisation {
    pub(crate) fn observe() -> Self {
        let nested = ["kvm_intel", "kvm_amd"]
            .iter()
            .find_map(|module| fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).ok());
        Self {
            cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            nested,
            kvm_opens: File::options().read(true).write(true).open("/dev/kvm").is_ok(),
        }
    }

    /// Whether a stock kernel runs on this machine's KVM. A `/dev/kvm` without the processor's flags is a software
    /// hypervisor that is far too slow for one.
    pub(crate) fn has_hardware(&self) -> bool {
        self.kvm_opens && (self.has_flag("vmx") || self.has_flag("svm"))
    }

    fn has_flag(&self, flag: &str) -> bool {
        let flags = self.cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        flags.split_whitespace().any(|word| word == flag)
    }

    /// The driver for the virtualisation that a host with this acceleration sees.
    pub(crate) fn driver(&self, acceleration: Acceleration) -> &'static str {
        match acceleration {
            Acceleration::Hardware if self.has_flag("vmx") => "kvm-intel",
            Acceleration::Hardware | Acceleration::Emulated => "kvm-amd",
        }
    }

    /// What an outer host should use.
    pub(crate) fn acceleration(&self) -> Acceleration {
        let nested = self.nested.as_deref().is_some_and(|value| matches!(value.trim(), "Y" | "1"));
        match self.has_hardware() && nested {
            true => Acceleration::Hardware,
            false => Acceleration::Emulated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(flags: &str, nested: Option<&str>) -> Virtualisation {
        Virtualisation {
            cpuinfo: format!("processor : 0\nflags\t\t: fpu {flags} sse\nprocessor : 1\n"),
            nested: nested.map(str::to_owned),
            kvm_opens: true,
        }
    }

    #[test]
    fn a_software_hypervisor_is_not_taken_for_hardware() {
        assert!(!machine("vme", Some("Y")).has_hardware());
        assert_eq!(machine("vme", Some("Y")).acceleration(), Acceleration::Emulated);
    }

    #[test]
    fn hardware_hosts_the_outer_host_only_where_it_nests() {
        assert_eq!(machine("vmx", Some("Y\n")).acceleration(), Acceleration::Hardware);
        assert_eq!(machine("svm", Some("1\n")).acceleration(), Acceleration::Hardware);
        assert_eq!(machine("svm", Some("0\n")).acceleration(), Acceleration::Emulated);
        assert_eq!(machine("svm", None).acceleration(), Acceleration::Emulated);
    }

    #[test]
    fn the_driver_is_that_of_the_processor_the_host_sees() {
        assert_eq!(machine("vmx", None).driver(Acceleration::Hardware), "kvm-intel");
        assert_eq!(machine("svm", None).driver(Acceleration::Hardware), "kvm-amd");
        assert_eq!(machine("vmx", None).driver(Acceleration::Emulated), "kvm-amd");
    }

    #[test]
    fn hardware_without_permission_is_no_hardware() {
        let machine = Virtualisation { kvm_opens: false, ..machine("vmx", Some("Y")) };
        assert!(!machine.has_hardware());
    }
}

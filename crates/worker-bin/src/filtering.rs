//! What is said of the filters for system calls where they are not as they are by default.

use syscall_filter::Mode;

/// What is not as it should be on this host with `mode`, in a sentence.
pub(crate) fn shortcoming(mode: Mode) -> Option<&'static str> {
    told(mode, mode.is_supported())
}

fn told(mode: Mode, is_supported: bool) -> Option<&'static str> {
    match (mode, is_supported) {
        (Mode::Trap, true) => None,
        (Mode::Off, _) => Some("seccomp = \"off\": processes of VMs make any system call"),
        (Mode::Log, true) => Some(
            "seccomp = \"log\": processes of VMs make any system call; the kernel's audit log names those that \"trap\" \
             would end them for",
        ),
        (Mode::Trap | Mode::Log, false) => {
            Some("this kernel cannot filter system calls: processes of VMs make any")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_filtered_is_told() {
        assert_eq!(told(Mode::Trap, true), None);
        for (mode, is_supported, word) in [
            (Mode::Off, true, "seccomp = \"off\""),
            (Mode::Off, false, "seccomp = \"off\""),
            (Mode::Log, true, "audit log"),
            (Mode::Trap, false, "this kernel cannot"),
            (Mode::Log, false, "this kernel cannot"),
        ] {
            assert!(
                told(mode, is_supported).is_some_and(|told| told.contains(word)),
                "{mode} {is_supported}"
            );
        }
    }
}

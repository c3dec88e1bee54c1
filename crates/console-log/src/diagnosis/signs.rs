//! Lines that tell why a boot went wrong, as a table.
//!
//! Each is what one program writes: Linux (`init/`, `mm/oom_kill.c`), glibc, initramfs-tools, dracut, systemd in an initrd,
//! the initrd of NixOS, and busybox. The table is ordered by how much a line explains: "there is no root device" before "a
//! shell was opened because of it".

use vm_model::FailureClass;

use super::Diagnosis;

/// A line that tells why a boot went wrong.
struct Sign {
    /// Words that stand in it, in this order.
    words: &'static [&'static str],
    class: FailureClass,
    /// What helps, where that is more than the class tells.
    hint: Option<&'static str>,
    then: Then,
}

/// What a guest does after such a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It goes on, and ends or panics if it cannot.
    GoesOn,
    /// It waits for a person.
    Waits,
}

const fn sign(class: FailureClass, words: &'static [&'static str]) -> Sign {
    Sign { words, class, hint: None, then: Then::GoesOn }
}

impl Sign {
    const fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    const fn waits(self) -> Self {
        Self { then: Then::Waits, ..self }
    }

    fn is_in(&self, line: &str) -> bool {
        let mut rest = line;
        self.words.iter().all(|words| match rest.find(words) {
            Some(at) => {
                rest = &rest[at + words.len()..];
                true
            }
            None => false,
        })
    }
}

const NO_9P: &str = "the guest wants a directory shared by 9p or virtiofs, which its machine does not have: put what it needs on a disk image";
const OTHER_MODULES: &str =
    "the initrd's modules are those of another kernel: build it for the kernel that is started";
const NO_FILE_SYSTEM_DRIVER: &str = "the guest has no driver for that file system: build it into the kernel or put its module into the initrd";

/// What explains most comes first.
const SIGNS: &[Sign] = &[
    sign(FailureClass::UnsupportedInstruction, &["Fatal glibc error: CPU does not support"]),
    sign(
        FailureClass::UnsupportedInstruction,
        &["This kernel requires the following features not present on the CPU"],
    ),
    sign(FailureClass::OutOfMemory, &["System is deadlocked on memory"]),
    sign(FailureClass::OutOfMemory, &["Out of memory and no killable processes"]),
    sign(FailureClass::OutOfMemory, &["ut of memory", "panic_on_oom"]),
    sign(FailureClass::OutOfMemory, &["Initramfs unpacking failed: write error"])
        .hint("the initrd, unpacked, does not fit into the VM's memory: give it more"),
    sign(FailureClass::OutOfMemory, &["Out of memory: Kill"]),
    sign(FailureClass::NoInit, &["No working init found"]),
    sign(FailureClass::NoInit, &["Requested init ", " failed"]),
    sign(FailureClass::NoInit, &["stage 2 init script (", ") not found"]),
    sign(FailureClass::NoInit, &["Target filesystem doesn't have requested "]),
    sign(FailureClass::NoInit, &["No init found. Try passing init="]),
    sign(FailureClass::NoInit, &["run-init: ", ": No such file or directory"]),
    sign(FailureClass::NoInit, &["switch_root: can't execute "]),
    sign(FailureClass::NoInit, &["does not seem to be an OS tree"]),
    sign(FailureClass::MissingDriver, &["modprobe", "virtio_", "not found"]).hint(OTHER_MODULES),
    sign(FailureClass::MissingDriver, &["modprobe", "could not insert", "virtio_"]).hint(OTHER_MODULES),
    sign(FailureClass::MissingDriver, &["mount: ", "unknown filesystem type"]).hint(NO_FILE_SYSTEM_DRIVER),
    sign(FailureClass::MissingDriver, &["mount: mounting ", " failed: No such device"])
        .hint(NO_FILE_SYSTEM_DRIVER),
    sign(FailureClass::NoRootDevice, &["9pnet_virtio: no channels available for device"]).hint(NO_9P),
    sign(FailureClass::NoRootDevice, &["virtio-fs: tag <", "> not found"]).hint(NO_9P),
    sign(FailureClass::NoRootDevice, &["ALERT!", "does not exist"]).waits(),
    sign(FailureClass::NoRootDevice, &["Gave up waiting for root"]),
    sign(FailureClass::NoRootDevice, &["dracut", "/dev/", " does not exist"]),
    sign(FailureClass::NoRootDevice, &["dracut", "No or empty root= argument"])
        .hint("put root= on the command line: the first disk is /dev/vda"),
    sign(FailureClass::NoRootDevice, &["Timed out waiting for device "]),
    sign(FailureClass::NoRootDevice, &["special device ", " does not exist"]),
    sign(FailureClass::NoRootDevice, &["mount: mounting /dev/", " failed: No such file or directory"]),
    sign(FailureClass::RootFileSystem, &["Failed to mount", "sysroot"]),
    sign(FailureClass::RootFileSystem, &["Dependency failed for", "sysroot"]),
    sign(FailureClass::RootFileSystem, &["mount: mounting ", " failed: Invalid argument"]),
    sign(FailureClass::RootFileSystem, &["wrong fs type, bad option, bad superblock"]),
    sign(FailureClass::RootFileSystem, &["requires a manual fsck"])
        .hint("the root file system is damaged: repair it with fsck, or put the volume back"),
    sign(FailureClass::RootFileSystem, &["UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY"])
        .hint("the root file system is damaged: repair it with fsck, or put the volume back"),
    sign(FailureClass::BadInitrd, &["Initramfs unpacking failed"]),
    sign(FailureClass::BadInitrd, &["invalid magic at start of compressed archive"]),
    sign(FailureClass::BadInitrd, &["junk within compressed archive"]),
    sign(FailureClass::InitFailed, &["error while loading shared libraries"])
        .hint("a library that the program needs is missing from the initrd or the root file system"),
    sign(FailureClass::EmergencyShell, &["An error occurred in stage 1 of the boot process"]).waits(),
    sign(FailureClass::EmergencyShell, &["You are in emergency mode"]).waits(),
    sign(FailureClass::EmergencyShell, &["Entering emergency mode"]).waits(),
    sign(FailureClass::InitFailed, &["Attempted to kill init!"]),
];

/// What the line that explains most says; of several such, the last.
pub(super) fn diagnose(lines: &[String]) -> Option<Diagnosis> {
    SIGNS.iter().find_map(|sign| {
        let line = lines.iter().rposition(|line| sign.is_in(line))?;
        let of_class = Diagnosis::new(sign.class, line);
        Some(Diagnosis { hint: sign.hint.unwrap_or(of_class.hint), ..of_class })
    })
}

/// Whether the guest that wrote `line` now waits for a person.
pub(crate) fn waits_for_a_person(line: &str) -> bool {
    SIGNS.iter().any(|sign| sign.then == Then::Waits && sign.is_in(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_is_reached() {
        for (number, sign) in SIGNS.iter().enumerate() {
            let line = sign.words.join("x");
            let first = SIGNS.iter().position(|other| other.is_in(&line));
            assert_eq!(first, Some(number), "an earlier sign hides {:?}", sign.words);
        }
    }
}

//! What Linux says when it cannot mount its root file system by itself (`init/do_mounts.c`): which device it looked for,
//! and which block devices it has.
//!
//! ```text
//! VFS: Cannot open root device "vda2" or unknown-block(0,0): error -6
//! Please append a correct "root=" boot option; here are the available partitions:
//! fe00         2097152 vda
//!  driver: virtio_blk
//! Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
//! ```

use vm_model::FailureClass;

use super::Diagnosis;

const CANNOT_OPEN: &str = "VFS: Cannot open root device \"";
const CANNOT_MOUNT: &str = "VFS: Unable to mount root fs on ";
/// How the kernel names a device that it does not have.
const NO_DEVICE: &str = "unknown-block(0,0)";
/// `ENODEV`: there is no such file system.
const NO_FILE_SYSTEM: &str = ": error -19";

/// What `lines` up to a panic say about the root device, if that is what the kernel panicked of.
pub(super) fn diagnose(lines: &[String]) -> Option<Diagnosis> {
    let panic = lines.iter().rposition(|line| line.contains(CANNOT_MOUNT))?;
    let before = &lines[..panic];
    let Some(opened) = before.iter().rposition(|line| line.contains(CANNOT_OPEN)) else {
        let tried = before.iter().rposition(|line| line.contains("No filesystem could mount root"));
        let line = tried.unwrap_or(panic);
        return Some(if lines[panic].contains(NO_DEVICE) {
            Diagnosis::new(FailureClass::NoRootDevice, line)
        } else {
            Diagnosis::new(FailureClass::RootFileSystem, line)
        });
    };
    // Only an initrd that cannot be unpacked leaves the search for a root device to a kernel that has no drivers.
    if let Some(line) = before.iter().rposition(|line| line.contains("Initramfs unpacking failed")) {
        return Some(Diagnosis::new(FailureClass::BadInitrd, line));
    }
    let (asked, devices) = (&lines[opened], &before[opened..]);
    Some(open_failure(asked, devices, opened))
}

/// Why the device in the line `asked` could not be opened, where `devices` lists those that there are.
fn open_failure(asked: &str, devices: &[String], line: usize) -> Diagnosis {
    let of = |class, hint| Diagnosis { class, hint, line };
    if asked.contains(NO_FILE_SYSTEM) {
        return of(
            FailureClass::MissingDriver,
            "the kernel has no driver for the root file system: build it in, or use an initrd with its module",
        );
    }
    if !asked.contains(NO_DEVICE) {
        return Diagnosis::new(FailureClass::RootFileSystem, line);
    }
    if !devices.iter().any(|line| line.contains("driver: ")) {
        return of(
            FailureClass::MissingDriver,
            "the kernel sees no disk at all: build virtio_pci and virtio_blk into it or use an initrd with these modules; or the VM has no disk",
        );
    }
    let root = asked.split_once(CANNOT_OPEN).map_or("", |(_, root)| root);
    if root.starts_with("UUID=") || root.starts_with("LABEL=") || root.starts_with("/dev/disk/") {
        return of(
            FailureClass::NoRootDevice,
            "a kernel without an initrd finds its root device by /dev/…, PARTUUID= or PARTLABEL= only: name it so, or use an initrd",
        );
    }
    of(
        FailureClass::NoRootDevice,
        "root= on the command line names a device that is not among those the kernel lists on the console",
    )
}

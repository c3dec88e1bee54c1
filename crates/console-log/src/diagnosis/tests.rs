//! What guests really write, and what it is taken for.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn lines(text: &str) -> Vec<String> {
    crate::lines::last_lines(text.as_bytes(), 200)
}

fn class(text: &str) -> Option<FailureClass> {
    Diagnosis::of(&lines(text)).map(|diagnosis| diagnosis.class)
}

const NO_DISK: &str = "\
[    0.812317] VFS: Cannot open root device \"/dev/vda\" or unknown-block(0,0): error -6
[    0.812717] Please append a correct \"root=\" boot option; here are the available partitions:
[    0.813954] List of all bdev filesystems:
[    0.814219]  ext3
[    0.815337] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    0.816839] CPU: 0 UID: 0 PID: 1 Comm: swapper/0 Not tainted 6.12.34 #1
";

#[test]
fn a_kernel_without_any_disk_lacks_the_driver() {
    let diagnosis = Diagnosis::of(&lines(NO_DISK)).expect("recognised");
    assert_eq!((diagnosis.class, diagnosis.line), (FailureClass::MissingDriver, 0));
    assert!(diagnosis.hint.contains("virtio_blk"), "{}", diagnosis.hint);
}

#[test]
fn a_kernel_with_disks_was_told_the_wrong_one() {
    let listed = "fd00             368 vda \n driver: virtio_blk\n[    0.8] List of all bdev filesystems:";
    let text = NO_DISK.replace("[    0.813954] List of all bdev filesystems:", listed);
    let diagnosis = Diagnosis::of(&lines(&text)).expect("recognised");
    assert_eq!(diagnosis.class, FailureClass::NoRootDevice);
    assert!(diagnosis.hint.contains("not among those"), "{}", diagnosis.hint);
    let by_uuid = text.replace("/dev/vda", "UUID=255a5309-0000");
    let hint = Diagnosis::of(&lines(&by_uuid)).expect("recognised").hint;
    assert!(hint.contains("PARTUUID="), "{hint}");
}

#[test]
fn a_root_device_that_is_there_has_the_wrong_content_or_no_driver_for_it() {
    let opened = NO_DISK.replace("unknown-block(0,0)", "unknown-block(254,0)");
    assert_eq!(class(&opened), Some(FailureClass::RootFileSystem));
    let no_driver = opened.replace("error -6", "error -19");
    assert_eq!(class(&no_driver), Some(FailureClass::MissingDriver));
    let tried = "[ 1.0] No filesystem could mount root, tried:  ext3 ext4\n\
                 [ 1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(254,0)\n";
    let diagnosis = Diagnosis::of(&lines(tried)).expect("recognised");
    assert_eq!((diagnosis.class, diagnosis.line), (FailureClass::RootFileSystem, 0));
}

#[test]
fn a_broken_initrd_explains_the_root_device_that_is_missing() {
    let text =
        format!("[ 0.1] Initramfs unpacking failed: invalid magic at start of compressed archive\n{NO_DISK}");
    assert_eq!(class(&text), Some(FailureClass::BadInitrd));
}

#[test]
fn lines_of_linux_and_of_initrds_are_recognised() {
    use FailureClass::{
        BadInitrd, EmergencyShell, InitFailed, KernelPanic, MissingDriver, NoInit, NoRootDevice, OutOfMemory,
        RootFileSystem, UnsupportedInstruction,
    };
    for (text, expected) in [
        (
            "[ 1.0] Kernel panic - not syncing: No working init found.  Try passing init= option to kernel.",
            NoInit,
        ),
        ("[ 1.0] Kernel panic - not syncing: Requested init /bin/nothing failed (error -2).", NoInit),
        (
            "Target filesystem doesn't have requested /sbin/init.\nNo init found. Try passing init= bootarg.",
            NoInit,
        ),
        (
            "stage 2 init script (/mnt-root//nix/store/x-nixos/init) not found\n\nAn error occurred in stage 1 of the boot process, which must mount the",
            NoInit,
        ),
        ("[ 1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", InitFailed),
        (
            "/init: error while loading shared libraries: libc.so.6: cannot open\n[ 1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00",
            InitFailed,
        ),
        (
            "Fatal glibc error: CPU does not support x86-64-v3\n[ 1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00",
            UnsupportedInstruction,
        ),
        ("[ 9.0] Kernel panic - not syncing: System is deadlocked on memory", OutOfMemory),
        (
            "[ 9.0] Out of memory and no killable processes...\n[ 9.1] Kernel panic - not syncing: x",
            OutOfMemory,
        ),
        ("[ 9.0] Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled", OutOfMemory),
        ("[ 0.5] Initramfs unpacking failed: write error", OutOfMemory),
        ("[ 0.5] Initramfs unpacking failed: junk within compressed archive", BadInitrd),
        (
            "modprobe: FATAL: Module virtio_blk not found in directory /lib/modules/6.1.0\nALERT!  /dev/vda1 does not exist.  Dropping to a shell!",
            MissingDriver,
        ),
        ("mount: mounting /dev/vda on /root failed: No such device", MissingDriver),
        ("mount: /sysroot: unknown filesystem type 'erofs'.", MissingDriver),
        (
            "Gave up waiting for root file system device.  Common problems:\nALERT!  UUID=255a does not exist.  Dropping to a shell!",
            NoRootDevice,
        ),
        ("dracut-initqueue[253]: Warning: /dev/disk/by-uuid/255a does not exist", NoRootDevice),
        (
            "[ TIME ] Timed out waiting for device \u{1b}[0;1;39mdev-vda1.device\u{1b}[0m - /dev/vda1.\n[DEPEND] Dependency failed for sysroot.mount - /sysroot.\nYou are in emergency mode. After logging in",
            NoRootDevice,
        ),
        ("9pnet_virtio: no channels available for device nix-store", NoRootDevice),
        ("[FAILED] Failed to mount \u{1b}[0;1;39msysroot.mount\u{1b}[0m - /sysroot.", RootFileSystem),
        ("mount: mounting /dev/vda on /root failed: Invalid argument", RootFileSystem),
        ("You are in emergency mode. After logging in, type \"journalctl -xb\"", EmergencyShell),
        ("[ 5.0][    T1] Kernel panic - not syncing: Fatal exception in interrupt", KernelPanic),
    ] {
        assert_eq!(class(text), Some(expected), "{text}");
    }
    assert_eq!(class("Debian GNU/Linux 12 guest ttyS0\nguest login:"), None);
}

#[test]
fn what_follows_a_panic_says_nothing_of_its_cause() {
    let text =
        "[ 1.0] Kernel panic - not syncing: Fatal exception\n[ 1.1] Out of memory: Killed process 1 (x)";
    assert_eq!(class(text), Some(FailureClass::KernelPanic));
}

#[test]
fn timestamps_and_callers_are_left_out() {
    for (line, text) in [
        ("[    1.234567] text", "text"),
        ("[    1.234567][    T1] text", "text"),
        ("[    1.234567][C0] text", "text"),
        ("[    1.0] [drm] text", "[drm] text"),
        ("[  OK  ] Reached target", "[  OK  ] Reached target"),
        ("[", "["),
        ("", ""),
    ] {
        assert_eq!(without_timestamp(line), text);
    }
}

/// Lines made of pieces of what is recognised, and of anything.
fn any_line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(|at| {
            let pieces: Vec<&str> = NO_DISK.split_inclusive(' ').collect();
            (*at.get(&pieces)).to_owned()
        }),
        1 => Just("ALERT! x does not exist".to_owned()),
        1 => Just("[".to_owned()),
        2 => ".{0,12}",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_lines_are_read_and_a_diagnosis_names_one_of_them(lines in vec(any_line(), 0..12)) {
        if let Some(diagnosis) = Diagnosis::of(&lines) {
            prop_assert!(diagnosis.line < lines.len());
            prop_assert!(!diagnosis.hint.is_empty());
        }
        for line in &lines {
            prop_assert!(line.ends_with(without_timestamp(line)));
            waits_for_a_person(line);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let lines = crate::lines::last_lines(&bytes, 50);
        let _ = Diagnosis::of(&lines);
    }
}

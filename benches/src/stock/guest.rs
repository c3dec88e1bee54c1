//! The guest: the test image's kernel and initial RAM disk with one program more, and a disk to work on.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workload::{GUEST, HOST, PORT, Workload};

/// Where the lab says which images there are.
const IMAGES: &str = "PROCURATOR_TEST_IMAGES";
/// The guest writes these to its console.
pub(crate) const BEGINS: &str = "bench: begin";
/// See [`BEGINS`].
pub(crate) const ENDS: &str = "bench: end";
const DISK_BYTES: u64 = 96 << 20;

/// The files of a guest.
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) disk: PathBuf,
}

impl Guest {
    /// Makes in `folder` what is not in the image.
    pub(crate) fn prepare(folder: &Path) -> Result<Self> {
        let image = image()?;
        let initrd = folder.join("initrd");
        fs::write(&initrd, initrd_with_program(&image.join("initrd"), folder)?)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        let disk = folder.join("disk.img");
        let mut file = File::create(&disk).with_context(|| format!("cannot create {}", disk.display()))?;
        // All there from the start: whoever writes first would have to find room for it.
        io::copy(&mut io::repeat(0xa5).take(DISK_BYTES), &mut file).context("cannot fill the disk")?;
        Ok(Self { kernel: image.join("vmlinux"), initrd, disk })
    }

    /// The kernel's command line for `workload`.
    pub(crate) fn cmdline(workload: Workload) -> String {
        let (name, mebibytes) = (workload.name(), workload.mebibytes());
        format!("console=ttyS0 quiet panic=-1 rdinit=/bench bench={name} mebibytes={mebibytes}")
    }
}

/// The store path of the image that runs.
fn image() -> Result<PathBuf> {
    let list = std::env::var(IMAGES).with_context(|| format!("{IMAGES} is not set"))?;
    let list = fs::read_to_string(&list).with_context(|| format!("cannot read {list}"))?;
    let images: Value = serde_json::from_str(&list).context("the list of images is no JSON")?;
    let path = images["guest"]["store_path"].as_str().context("the list has no image `guest`")?;
    Ok(path.into())
}

/// The image's RAM disk followed by an archive of the guest's program. The kernel unpacks both: its archives may follow
/// one another at any multiple of four bytes (Documentation/driver-api/early-userspace/buffer-format.rst).
fn initrd_with_program(initrd: &Path, folder: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(initrd).with_context(|| format!("cannot read {}", initrd.display()))?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let tree = folder.join("program");
    fs::create_dir_all(&tree).context("cannot make a folder")?;
    let program = tree.join("bench");
    fs::write(&program, program_text()).context("cannot write the guest's program")?;
    let script = "chmod 755 bench && echo bench | busybox cpio -o -H newc";
    let output = Command::new("busybox")
        .args(["sh", "-c", script])
        .current_dir(&tree)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start busybox")?;
    ensure!(output.status.success(), "busybox cpio ended with {}", output.status);
    bytes.extend(output.stdout);
    Ok(bytes)
}

/// The guest's init. It switches the machine off, or resets it where the command line says how.
fn program_text() -> String {
    format!(
        r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
end=poweroff
for word in $($bb cat /proc/cmdline); do
    case $word in
    bench=*) bench=${{word#bench=}} ;;
    mebibytes=*) mebibytes=${{word#mebibytes=}} ;;
    reboot=*) end=reboot ;;
    esac
done
blocks=$((mebibytes * 16))
if [ $bench = boot ]; then
    echo "{BEGINS}"
    echo "{ENDS}"
    $bb $end -f
fi
for module in /modules/*; do $bb insmod "$module"; done
case $bench in
send | receive)
    $bb ip link set eth0 up
    $bb ip addr add {GUEST}/24 dev eth0
    until $bb ping -c 1 -W 1 {HOST} >/dev/null 2>&1; do :; done
    ;;
esac
echo "{BEGINS}"
case $bench in
read) $bb dd if=/dev/vda of=/dev/null bs=64k count=$blocks iflag=direct 2>/dev/null ;;
write) $bb dd if=/dev/zero of=/dev/vda bs=64k count=$blocks oflag=direct 2>/dev/null ;;
send) $bb dd if=/dev/zero bs=64k count=$blocks 2>/dev/null | $bb nc {HOST} {PORT} ;;
receive) $bb nc {HOST} {PORT} </dev/null >/dev/null ;;
esac
echo "{ENDS}"
$bb $end -f
"#
    )
}

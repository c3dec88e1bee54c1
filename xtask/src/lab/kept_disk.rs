//! A disk of the outer host that outlives it: what was written to it is there at the next boot, as far as it was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{packages, process};

/// In the words of `mke2fs`. The file is sparse.
const SIZE: &str = "1G";
/// By this serial number the outer host knows it, and mounts it at `/kept`.
const SERIAL: &str = "kept";
/// Behind all other disks, whose letters stay.
const PCI_SLOT: &str = "0x1e";

/// An ext4 file system with a journal, as hosts have.
pub(crate) struct KeptDisk(PathBuf);

impl KeptDisk {
    /// A blank one at `image`, in place of what is there.
    pub(crate) fn blank(image: &Path) -> Result<Self> {
        if image.exists() {
            fs::remove_file(image).with_context(|| format!("cannot replace {}", image.display()))?;
        }
        let mke2fs = packages::find_program("mke2fs").context("mke2fs is not there")?;
        process::output_of(Command::new(mke2fs).args(["-q", "-t", "ext4", "-m", "0"]).arg(image).arg(SIZE))?;
        Ok(Self(image.to_path_buf()))
    }

    /// How QEMU has it. What the host flushes is in this machine's files; what it only means to write is lost with it.
    pub(crate) fn qemu_arguments(&self) -> [String; 4] {
        [
            "-drive".to_owned(),
            format!("file={},if=none,id=kept,format=raw", self.0.display()),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=kept,serial={SERIAL},addr={PCI_SLOT}"),
        ]
    }
}

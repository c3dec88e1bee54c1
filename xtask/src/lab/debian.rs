//! The root file system of the outer host that has systemd: a small Debian, built once and kept.
//!
//! It is a disk image that nothing changes: QEMU keeps what a run writes to itself. What a run brings along is on a disk of
//! its own, see `systemd/init.sh`.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, process};

/// The release whose systemd the worker is tested with: version 252.
const SUITE: &str = "bookworm";
/// What the smallest Debian lacks.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,nftables,kmod,procps";
/// Files for `customize.sh`, which run or lie in the root.
const FILES: [(&str, &str); 3] = [
    ("lab.service", include_str!("systemd/lab.service")),
    ("after-shutdown.sh", include_str!("systemd/after-shutdown.sh")),
    ("customize.sh", include_str!("systemd/customize.sh")),
];
/// More than the root and what runs write to it.
const SIZE: &str = "1536M";

/// A root file system with systemd.
pub(crate) struct DebianRoot {
    pub(crate) image: PathBuf,
}

impl DebianRoot {
    /// The one in `cache`, which is built first where it is not there.
    pub(crate) fn ensure(cache: &Path) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        (SUITE, PACKAGES, FILES, SIZE).hash(&mut hasher);
        let image = cache.join(format!("{SUITE}-{:016x}.img", hasher.finish()));
        if !image.is_file() {
            packages::ensure_for_debian()?;
            if !packages::is_root() {
                bail!("a Debian root file system with devices of its own is built by root only");
            }
            println!("Building a Debian root file system with systemd");
            build(cache, &image).context("cannot build the outer host's Debian")?;
        }
        Ok(Self { image })
    }
}

/// Builds beside the destination and renames, so that an interrupted run leaves nothing that looks complete.
fn build(cache: &Path, image: &Path) -> Result<()> {
    let partial = cache.join("partial");
    let (files, root, unfinished) = (partial.join("files"), partial.join("root"), partial.join("image"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
    for (name, text) in FILES {
        let path = files.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let hook = format!("sh {} \"$1\"", process::shell_quote(&files.join("customize.sh").to_string_lossy()));
    let mut bootstrap =
        Command::new(packages::find_program("mmdebstrap").context("mmdebstrap is not there")?);
    bootstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    bootstrap.arg(format!("--include={PACKAGES}")).arg(format!("--customize-hook={hook}"));
    bootstrap.arg(SUITE).arg(&root).env("lab", &files);
    process::output_of(&mut bootstrap)?;
    let mut format = Command::new(packages::find_program("mke2fs").context("mke2fs is not there")?);
    format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]);
    process::output_of(format.arg(&root).arg(&unfinished).arg(SIZE))?;
    fs::rename(&unfinished, image).with_context(|| format!("cannot create {}", image.display()))?;
    fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
}

//! A file system on a device of the kernel's device mapper, which a test has fail or stand still while it is in use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Sectors of 512 bytes: enough for a small disk of a VM.
const SECTORS: u64 = 64 << 11;

/// The file system; it goes when this value does.
#[derive(Debug)]
pub struct FaultyDisk {
    name: String,
    device: String,
    mounted: PathBuf,
    _folder: TempDir,
}

impl FaultyDisk {
    /// Makes the device `name`, with a file system on it that is mounted at `directory`, which is created.
    ///
    /// # Errors
    /// The kernel lacks a part of that, or a program does.
    pub fn mount(name: &str, directory: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a directory for the device")?;
        let file = folder.path().join("device");
        let file = file.to_str().context("the directory's name is text")?;
        run("busybox", &["truncate", "-s", &(SECTORS * 512).to_string(), file])?;
        let device = run("busybox", &["losetup", "-f"])?.trim().to_owned();
        run("busybox", &["losetup", &device, file])?;
        let disk = Self { name: name.to_owned(), device, mounted: directory.to_path_buf(), _folder: folder };
        run("dmsetup", &["create", name, "--table", &disk.sound()])?;
        let mapped = format!("/dev/mapper/{name}");
        run("busybox", &["mke2fs", &mapped])?;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let directory = directory.to_str().context("the directory's name is text")?;
        run("busybox", &["mount", "-t", "ext4", &mapped, directory])?;
        // What lies there is to be the worker's alone.
        run("busybox", &["rmdir", &format!("{directory}/lost+found")])?;
        Ok(disk)
    }

    /// From now on each write fails.
    ///
    /// # Errors
    /// The device mapper refuses.
    pub fn fail_writes(&self) -> Result<()> {
        self.become_one(&format!("0 {SECTORS} flakey {} 0 0 3600 1 error_writes", self.device))
    }

    /// From now on nothing that is asked of the device is answered, until it is [mended](Self::mend).
    ///
    /// # Errors
    /// The device mapper refuses.
    pub fn freeze(&self) -> Result<()> {
        run("dmsetup", &["suspend", "--noflush", "--nolockfs", &self.name]).map(drop)
    }

    /// It works again; what waited is carried out.
    ///
    /// # Errors
    /// The device mapper refuses.
    pub fn mend(&self) -> Result<()> {
        self.become_one(&self.sound())
    }

    fn sound(&self) -> String {
        format!("0 {SECTORS} linear {} 0", self.device)
    }

    fn become_one(&self, table: &str) -> Result<()> {
        run("dmsetup", &["load", &self.name, "--table", table])?;
        run("dmsetup", &["suspend", "--noflush", "--nolockfs", &self.name])?;
        run("dmsetup", &["resume", &self.name]).map(drop)
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // A frozen one cannot be unmounted, and whoever waits for it cannot end.
        let outcome = self.mend().and_then(|()| {
            let directory = self.mounted.to_string_lossy().into_owned();
            run("busybox", &["umount", "-l", &directory])?;
            run("dmsetup", &["remove", "--deferred", &self.name])?;
            run("busybox", &["losetup", "-d", &self.device])
        });
        if let Err(error) = outcome {
            println!("the device {} is left: {error:#}", self.name);
        }
    }
}

/// What a program prints that has to go well.
fn run(program: &str, words: &[&str]) -> Result<String> {
    // The lab has no udev: the device mapper's own library makes the nodes of devices.
    let output = Command::new(program).env("DM_DISABLE_UDEV", "1").args(words).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program} {}` failed: {}", words.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

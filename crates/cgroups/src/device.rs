//! The block device of the host that a file lies on.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

/// A whole block device by its numbers. Limits of I/O hold for whole devices, not for partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockDevice {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl BlockDevice {
    /// The device that `file` lies on; `None` where it lies on none that can be limited: in memory, on a network, or on a file
    /// system that spans devices.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn of(file: &Path) -> io::Result<Option<Self>> {
        let device = fs::metadata(file)?.dev();
        let (major, minor) = (major(device), minor(device));
        Ok(Self::whole(Path::new("/sys/dev/block"), major, minor))
    }

    /// The whole device of the device or partition with these numbers, as `sysfs` (`/sys/dev/block`) has it.
    fn whole(sysfs: &Path, major: u32, minor: u32) -> Option<Self> {
        let entry = fs::canonicalize(sysfs.join(format!("{major}:{minor}"))).ok()?;
        if !entry.join("partition").exists() {
            return Some(Self { major, minor });
        }
        Self::parse(&fs::read_to_string(entry.parent()?.join("dev")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_is_limited_by_its_disk() {
        let sysfs = tempfile::tempdir().expect("a directory");
        let disk = sysfs.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).expect("made");
        fs::write(disk.join("dev"), "8:0\n").expect("written");
        fs::write(disk.join("sda1/partition"), "1\n").expect("written");
        let numbers = sysfs.path().join("block");
        fs::create_dir(&numbers).expect("made");
        symlink(&disk, numbers.join("8:0")).expect("linked");
        symlink(disk.join("sda1"), numbers.join("8:1")).expect("linked");
        let sda = Some(BlockDevice { major: 8, minor: 0 });
        assert_eq!(BlockDevice::whole(&numbers, 8, 0), sda);
        assert_eq!(BlockDevice::whole(&numbers, 8, 1), sda);
        assert_eq!(BlockDevice::whole(&numbers, 0, 42), None, "no file system on a device");
    }

    #[test]
    fn what_lies_in_no_device_has_none() {
        assert_eq!(BlockDevice::of(Path::new("/proc/self/status")).expect("it is there"), None);
        BlockDevice::of(Path::new("/nowhere")).expect_err("it is not there");
    }
}

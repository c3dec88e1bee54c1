//! A file system whose files can share blocks: Btrfs on a loop device.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The least that Btrfs takes, and some room. The file beneath takes what is written.
const IMAGE_BYTES: u64 = 256 << 20;

/// The file system, mounted. It is unmounted with the thread's namespace of mounts.
#[derive(Debug)]
pub struct SharingFileSystem {
    mounted_at: PathBuf,
}

impl SharingFileSystem {
    /// Makes one in `directory` and mounts it there. For a thread that is [`isolated`](crate::isolated).
    ///
    /// # Panics
    ///
    /// Where this is not root, there are no loop devices, no `mkfs.btrfs`, or the kernel has no Btrfs.
    #[must_use]
    pub fn mount_in(directory: &Path) -> Self {
        let (image, mounted_at) = (directory.join("btrfs-image"), directory.join("btrfs"));
        let made = File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES));
        made.and_then(|()| fs::create_dir(&mounted_at)).expect("a writable directory");
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted_at));
        Self { mounted_at }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    /// How many of the stretches of blocks that `file` has, of all of them, it shares with other files.
    ///
    /// # Panics
    ///
    /// Where the file system does not say.
    #[must_use]
    pub fn shared_extents(&self, file: &Path) -> (usize, usize) {
        run(Command::new("sync").arg("--file-system").arg(file));
        let listed = run(Command::new("filefrag").arg("-v").arg(file));
        // An extent's line begins with its number and a colon.
        let is_extent = |line: &&str| {
            line.split_once(':').is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok())
        };
        let extents: Vec<&str> = listed.lines().filter(is_extent).collect();
        (extents.iter().filter(|line| line.contains("shared")).count(), extents.len())
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

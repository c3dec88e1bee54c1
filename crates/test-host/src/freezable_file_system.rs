//! A file system whose disk stops answering: ext4 on a loop device, frozen. Writes to it wait in the kernel, and no signal
//! gets them out of there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough for ext4 with a disk of a few megabytes.
const IMAGE_BYTES: u64 = 32 << 20;

/// The file system, mounted. Dropping it thaws it; it is unmounted with the thread's namespace of mounts.
#[derive(Debug)]
pub struct FreezableFileSystem {
    mounted_at: PathBuf,
}

impl FreezableFileSystem {
    /// Makes one in `directory` and mounts it there. For a thread that is [`isolated`](crate::isolated).
    ///
    /// # Panics
    ///
    /// Where this is not root, there are no loop devices, or no `mkfs.ext4`.
    #[must_use]
    pub fn mount_in(directory: &Path) -> Self {
        let (image, mounted_at) = (directory.join("image"), directory.join("mounted"));
        let made = File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES));
        made.and_then(|()| fs::create_dir(&mounted_at)).expect("a writable directory");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted_at));
        Self { mounted_at }
    }

    /// A new file of `bytes` of zeros, written.
    ///
    /// # Panics
    ///
    /// Where there is no room.
    #[must_use]
    pub fn file(&self, name: &str, bytes: usize) -> File {
        let path = self.mounted_at.join(name);
        fs::write(&path, vec![0; bytes]).expect("room for a file");
        File::options().read(true).write(true).open(path).expect("it is there")
    }

    /// From now on writes wait.
    ///
    /// # Panics
    ///
    /// Where it is frozen.
    pub fn freeze(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mounted_at));
    }

    /// Lets them go on.
    ///
    /// # Panics
    ///
    /// Where it is not frozen.
    pub fn thaw(&self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted_at));
    }
}

impl Drop for FreezableFileSystem {
    fn drop(&mut self) {
        // It fails where it is not frozen. Where a test failed it must not stay so: nothing could end then.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted_at).output();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

//! A file system of a few pages, which a test can fill up and make room on again.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

/// The name of the file that takes all room.
const FILLER: &str = "filler";

/// A file system in memory. It is mounted nowhere, and goes with the last file that is open on it.
#[derive(Debug)]
pub struct SmallFileSystem {
    root: OwnedFd,
}

impl SmallFileSystem {
    /// One with room for `bytes`, in whole pages.
    ///
    /// # Panics
    ///
    /// Where this is not root.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("these tests are run as root");
        fsconfig_set_string(&context, "size", bytes.to_string()).expect("a size");
        fsconfig_create(&context).expect("a file system");
        let root = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .expect("it can be opened");
        Self { root }
    }

    /// A new file of `bytes`, which take no room until they are written.
    ///
    /// # Panics
    ///
    /// Where there is one of that name.
    #[must_use]
    pub fn sparse_file(&self, name: &str, bytes: u64) -> File {
        let file = self.create(name);
        file.set_len(bytes).expect("a size takes no room");
        file
    }

    /// Its root, as this process reaches it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }

    /// Mounts it at `directory` too. For a thread that is [`isolated`](crate::isolated), with whose mounts it goes.
    ///
    /// # Panics
    ///
    /// Where that is no directory.
    pub fn mount_at(&self, directory: &Path) {
        move_mount(&self.root, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .expect("a directory to mount at");
    }

    /// Takes all the room that is left, also where some was taken before.
    ///
    /// # Panics
    ///
    /// Where it cannot be written to.
    pub fn fill(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let filler = openat(&self.root, FILLER, flags, Mode::RUSR | Mode::WUSR).expect("a file");
        let mut filler = File::from(filler);
        while filler.write(&[0xff; 4096]).is_ok() {}
    }

    /// Gives it back.
    ///
    /// # Panics
    ///
    /// Where it was not taken.
    pub fn make_room(&self) {
        unlinkat(&self.root, FILLER, AtFlags::empty()).expect("it was filled");
    }

    fn create(&self, name: &str) -> File {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::RUSR | Mode::WUSR).expect("a new file").into()
    }
}

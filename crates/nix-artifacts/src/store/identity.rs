//! What tells that a path is still the one that was judged before.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A path's inode and the times of its last changes.
///
/// A verdict about a store path may be remembered under this value: Nix never changes a path in place, and
/// whoever replaces it gives it another inode or change time. It covers the path's own inode, not what lies
/// below a directory: a file that somebody with write access to the store changes further down is seen only by
/// hashing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PathIdentity {
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// Inode number on that device.
    pub inode: u64,
    /// Size in bytes as `stat` tells it.
    pub size: u64,
    /// Last change of content: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// Last change of the inode: seconds and nanoseconds since 1970.
    pub changed: (i64, u32),
}

impl PathIdentity {
    /// The identity of what `descriptor` refers to; an `O_PATH` descriptor will do.
    ///
    /// # Errors
    /// What `statx` said.
    pub fn of(descriptor: impl AsFd) -> Result<Self, Errno> {
        let status = statx(descriptor, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Self {
            device: (status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            size: status.stx_size,
            modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
            changed: (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
        })
    }
}

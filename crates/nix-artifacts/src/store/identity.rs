//! What tells that a file is still the one, and still has the content, that was seen before.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Longer than any interval at which the kernel's clock for file times advances (10 ms at 100 Hz).
const TICK: Duration = Duration::from_millis(20);

/// A file, directory or symbolic link as its file system tells it from others and from its own earlier states.
///
/// Every write, truncation, change of mode, new hard link and renaming sets the change time to the host's clock, and no
/// system call sets it to another time. So an equal identity means an equal file, as far as the file system keeps
/// these values and nobody turned the host's clock back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
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
    /// When the inode was made, where the file system keeps that.
    #[serde(default)]
    pub born: Option<(i64, u32)>,
}

impl FileIdentity {
    /// The identity of what `descriptor` refers to; an `O_PATH` descriptor will do.
    ///
    /// # Errors
    /// What `statx` said.
    pub fn of(descriptor: impl AsFd) -> Result<Self, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let status = statx(descriptor, c"", AtFlags::EMPTY_PATH, wanted)?;
        let has_birth = status.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            device: (status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            size: status.stx_size,
            modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
            changed: (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
            born: has_birth.then_some((status.stx_btime.tv_sec, status.stx_btime.tv_nsec)),
        })
    }

    /// As [`FileIdentity::of`], of a file that is about to be read: any later change shows in its identity.
    ///
    /// Two changes within one tick of the kernel's clock leave the same change time. So this waits, for one tick at
    /// most, until the change time lies in the past.
    ///
    /// # Errors
    /// What `statx` said.
    pub fn settled(descriptor: impl AsFd) -> Result<Self, Errno> {
        let identity = Self::of(&descriptor)?;
        let wait = identity.tick_left(SystemTime::now());
        if wait.is_zero() {
            return Ok(identity);
        }
        sleep(wait);
        Self::of(descriptor)
    }

    /// How long after `now` a change may still get the change time that this one has.
    fn tick_left(&self, now: SystemTime) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        let since_epoch = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
        let age = UNIX_EPOCH.checked_add(since_epoch).map(|changed| now.duration_since(changed));
        match age {
            Some(Ok(age)) => TICK.saturating_sub(age),
            // Changed in the future: the clock was turned back, and waiting for it could take years.
            Some(Err(_)) | None => TICK,
        }
    }

    /// What is different about `later`, in words; nothing where it is the same file, unchanged.
    pub fn difference(&self, later: &Self) -> Option<String> {
        if self == later {
            return None;
        }
        if (self.device, self.inode, self.born) != (later.device, later.inode, later.born) {
            return Some("another file is in its place".to_owned());
        }
        let mut words = String::new();
        let mut add = |text: &str| {
            let separator = if words.is_empty() { "" } else { ", " };
            let _ = write!(words, "{separator}{text}");
        };
        if self.size != later.size {
            add(&format!("its size was {} bytes and is {}", self.size, later.size));
        }
        if self.modified != later.modified {
            add("its modification time changed");
        }
        if self.changed != later.changed {
            add("its change time changed");
        }
        Some(words)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn identity(changed: (i64, u32)) -> FileIdentity {
        FileIdentity { device: (8, 1), inode: 7, size: 3, modified: (1, 0), changed, born: None }
    }

    #[test]
    fn a_file_that_changed_within_the_present_tick_is_waited_for() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(identity((99, 0)).tick_left(now), Duration::ZERO);
        assert_eq!(identity((99, 996_000_000)).tick_left(now), Duration::from_millis(16));
        assert_eq!(identity((1_000, 0)).tick_left(now), TICK, "no longer for a clock that was turned back");
        assert_eq!(identity((-5, 0)).tick_left(now), Duration::ZERO);
    }

    #[test]
    fn the_difference_is_told_in_words() {
        let before = identity((1, 0));
        assert_eq!(before.difference(&before), None);
        let other = FileIdentity { inode: 8, ..before };
        assert_eq!(before.difference(&other).as_deref(), Some("another file is in its place"));
        let edited = FileIdentity { size: 4, changed: (2, 0), ..before };
        let words = "its size was 3 bytes and is 4, its change time changed";
        assert_eq!(before.difference(&edited).as_deref(), Some(words));
    }

    #[test]
    fn an_edit_right_after_looking_is_seen() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        for round in 0..20 {
            fs::write(&path, "one").expect("written");
            let file = fs::File::open(&path).expect("opened");
            let before = FileIdentity::settled(&file).expect("an identity");
            fs::write(&path, "two").expect("written");
            let after = FileIdentity::of(&file).expect("an identity");
            assert!(before.difference(&after).is_some(), "round {round}: {before:?}");
        }
    }
}

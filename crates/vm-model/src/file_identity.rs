//! What tells that a file is still the one, and still has the content, that was seen before.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

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

/// What the files were that a machine boots from, when they were opened to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootIdentities {
    /// The kernel.
    pub kernel: FileIdentity,
    /// The initial RAM disk, if the machine has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileIdentity>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_told_in_words() {
        let changed = (1, 0);
        let before =
            FileIdentity { device: (8, 1), inode: 7, size: 3, modified: (1, 0), changed, born: None };
        assert_eq!(before.difference(&before), None);
        let other = FileIdentity { inode: 8, ..before };
        assert_eq!(before.difference(&other).as_deref(), Some("another file is in its place"));
        let edited = FileIdentity { size: 4, changed: (2, 0), ..before };
        let words = "its size was 3 bytes and is 4, its change time changed";
        assert_eq!(before.difference(&edited).as_deref(), Some(words));
    }
}

//! Where a disk's file ends, and whether it ever ended earlier.
//!
//! Nobody says that a file was truncated. A read past the new end comes back short, but a write there succeeds and
//! makes the file longer again: what was lost before it then reads as zeros, as if it had been data. So the size is
//! looked at once a turn, and what lies past the lowest end ever seen stays out of reach, however long the file is
//! made afterwards.
//!
//! ```text
//! look ───── truncation ───── a write lands past the end ───── look: longer than it was in between
//! ```
//!
//! Therefore the end is taken to be no later than the first change since the last look. What goes unnoticed is a
//! truncation undone before the next look by a write that ends where the file did.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, StatxFlags, fstat, statx};

use super::shape::SECTOR_BYTES;

/// The end of one disk's file.
pub(super) struct FileEnd {
    file: OwnedFd,
    /// Names the disk in the log.
    disk: String,
    /// Whole sectors that were always there.
    sectors: u64,
    /// The lowest offset of what changed the file since the last look.
    first_change: u64,
    told: bool,
}

impl FileEnd {
    /// `None` for a block device, which no write makes longer: it refuses by itself what lies past its end. (Asking
    /// for its size in the way that works for it may also wait behind an erasure.)
    ///
    /// # Errors
    /// The file could not be examined.
    pub(super) fn of(file: &OwnedFd, disk: &str) -> io::Result<Option<Self>> {
        if FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let file = file.try_clone()?;
        let sectors = bytes(&file)? / SECTOR_BYTES;
        Ok(Some(Self { file, disk: disk.to_owned(), sectors, first_change: u64::MAX, told: false }))
    }

    /// Notes that the file was changed from `offset` on, and maybe made longer.
    pub(super) fn note_change(&mut self, offset: u64) {
        self.first_change = self.first_change.min(offset);
    }

    /// How many sectors are left if they became fewer. `first_in_flight` is asked only then, for the lowest offset of
    /// the changes that have not ended.
    pub(super) fn look(&mut self, first_in_flight: impl FnOnce() -> u64) -> Option<u64> {
        let first_change = std::mem::replace(&mut self.first_change, u64::MAX);
        // A file that does not tell its size fails transfers, too, and those say so.
        let bytes = bytes(&self.file).ok().filter(|bytes| bytes / SECTOR_BYTES < self.sectors)?;
        let end = bytes.min(first_change).min(first_in_flight());
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                disk = self.disk,
                expected = self.sectors * SECTOR_BYTES,
                found = bytes,
                "a disk's file became shorter: what lay past its end gives errors from now on"
            );
        }
        self.sectors = end / SECTOR_BYTES;
        Some(self.sectors)
    }
}

/// The file's size as this host knows it: a server that does not answer is not waited for.
fn bytes(file: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(file, "", flags, StatxFlags::SIZE)?.stx_size)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn file(sectors: u64) -> (File, FileEnd) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(sectors * 512).unwrap();
        let end = FileEnd::of(&file.try_clone().unwrap().into(), "disk-test").unwrap();
        (file, end.expect("a regular file is watched"))
    }

    fn nothing() -> u64 {
        u64::MAX
    }

    #[test]
    fn the_lowest_end_stays() {
        let (file, mut end) = file(64);
        assert_eq!(end.look(nothing), None);
        file.set_len(512 * 40 + 511).unwrap();
        assert_eq!(end.look(nothing), Some(40));
        file.set_len(512 * 64).unwrap();
        assert_eq!(end.look(nothing), None);
        file.set_len(512 * 50).unwrap();
        assert_eq!(end.look(nothing), None, "that is gone already");
        file.set_len(0).unwrap();
        assert_eq!(end.look(nothing), Some(0));
    }

    #[test]
    fn what_changed_the_file_since_the_last_look_is_no_proof_of_its_end() {
        let (file, mut end) = file(64);
        end.note_change(512 * 7);
        assert_eq!(end.look(nothing), None, "the file was whole then");
        end.note_change(512 * 20);
        end.note_change(512 * 30);
        file.set_len(512 * 31).unwrap();
        assert_eq!(end.look(|| 512 * 25), Some(20));
        file.set_len(512 * 19).unwrap();
        assert_eq!(end.look(|| 512 * 3), Some(3));
    }

    #[test]
    fn what_is_no_regular_file_has_no_such_end() {
        let null = File::open("/dev/null").unwrap();
        assert!(FileEnd::of(&null.into(), "disk-test").unwrap().is_none());
    }
}

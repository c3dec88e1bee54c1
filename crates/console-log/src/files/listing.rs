//! Which segments a directory holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use super::name::SegmentName;

/// Entries that are looked at. Many more than any writer leaves, few enough that a directory which somebody filled up
/// costs little.
const MOST_ENTRIES: usize = 4096;

/// One segment's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) name: SegmentName,
    /// Bytes in it.
    pub(super) len: u64,
    /// When the file was made, where its file system keeps that.
    pub(super) created: Option<SystemTime>,
    pub(super) modified: Option<SystemTime>,
}

impl Segment {
    pub(super) fn offset(&self) -> u64 {
        self.name.offset
    }

    /// The offset after its last byte.
    pub(super) fn end(&self) -> u64 {
        self.name.offset.saturating_add(self.len)
    }
}

/// What is in a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segments that are regular files, by boot and then by offset.
    pub(super) boots: BTreeMap<u32, Vec<Segment>>,
    /// The numbers of boots in all names, also of what is no regular file.
    taken: BTreeSet<u32>,
}

impl Listing {
    /// The first number after those of all boots that no name has; `None` where there is none left.
    pub(super) fn next_number(&self) -> Option<u32> {
        let newest = self.boots.last_key_value().map_or(0, |(number, _)| *number);
        (newest.checked_add(1)?..=u32::MAX).find(|number| !self.taken.contains(number))
    }

    /// A name with this number is there after all.
    pub(super) fn take(&mut self, number: u32) {
        self.taken.insert(number);
    }
}

/// Lists `directory`. Files that are removed meanwhile are left out, others than segments as well.
///
/// Sizes are read when all names are known. A segment before another is complete by then, so a gap that is seen between
/// two is one.
pub(super) fn list(directory: BorrowedFd<'_>) -> io::Result<Listing> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)?.take(MOST_ENTRIES) {
        names.extend(SegmentName::parse(entry?.file_name().to_bytes()));
    }
    names.sort_unstable();
    let taken = names.iter().map(|name| name.boot).collect();
    let mut listing = Listing { boots: BTreeMap::new(), taken };
    for name in names {
        let asked = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = match statx(directory, name.to_string(), AtFlags::SYMLINK_NOFOLLOW, asked) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(problem) => return Err(problem.into()),
        };
        if FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile {
            listing.boots.entry(name.boot).or_default().push(segment(name, &found));
        }
    }
    Ok(listing)
}

fn segment(name: SegmentName, found: &Statx) -> Segment {
    let has_created = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Segment {
        name,
        len: found.stx_size,
        created: time(found.stx_btime).filter(|_| has_created),
        modified: time(found.stx_mtime),
    }
}

/// `None` for times before 1970.
fn time(stamp: StatxTimestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(stamp.tv_sec).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, stamp.tv_nsec))
}

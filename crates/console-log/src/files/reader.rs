//! Reads a console from its files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

use super::error::{ConsoleFilesError, FileAction};
use super::listing::{Segment, list};
use crate::lines::{LINES_WINDOW, last_lines};
use crate::{ConsoleChunk, ConsoleSnapshot};

/// Bytes read of one segment, however long its file is: more than a writer's largest.
const MOST_OF_A_SEGMENT: u64 = 2 << 20;
/// The most segments that are put together for a snapshot's tail.
const TAIL_SEGMENTS: usize = 4;
/// How often the directory is listed for one answer while its files change.
pub(super) const ATTEMPTS: usize = 8;

/// The consoles of a directory, one a boot. Reading them needs nothing of the process that writes them, which may be at
/// it or gone.
#[derive(Debug)]
pub struct ConsoleFiles {
    /// `None` where there is no directory.
    directory: Option<OwnedFd>,
}

/// What is kept of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSummary {
    /// Its number. Numbers grow from boot to boot; there may be gaps between them.
    pub number: u32,
    /// Bytes written in all, up to the last one kept.
    pub total: u64,
    /// Bytes that are kept of them.
    pub kept: u64,
    /// Bytes that were dropped.
    pub omitted: u64,
    /// When it began. `None` where the file system does not keep that, or its head is gone.
    pub begun: Option<SystemTime>,
    /// When its guest wrote last.
    pub last_written: Option<SystemTime>,
}

impl ConsoleFiles {
    /// Opens the console in `directory`. One that is not there is an empty console.
    ///
    /// # Errors
    /// The directory is there and cannot be opened.
    pub fn open(directory: &Path) -> Result<Self, ConsoleFilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(directory, flags, Mode::empty()) {
            Ok(opened) => Ok(Self { directory: Some(opened) }),
            Err(Errno::NOENT) => Ok(Self { directory: None }),
            Err(error) => {
                Err(ConsoleFilesError::Open { directory: directory.to_owned(), source: error.into() })
            }
        }
    }

    pub(super) fn directory(&self) -> Option<&OwnedFd> {
        self.directory.as_ref()
    }

    /// The boots that are kept, oldest first.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn boots(&self) -> Result<Vec<BootSummary>, ConsoleFilesError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let listing = list(directory.as_fd()).map_err(ConsoleFilesError::List)?;
        Ok(listing.boots.into_iter().map(|(number, segments)| summary(number, &segments)).collect())
    }

    /// The number of the newest boot.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn newest(&self) -> Result<Option<u32>, ConsoleFilesError> {
        Ok(self.boots()?.last().map(|boot| boot.number))
    }

    /// At most `limit` bytes of boot `boot` from `offset` on, or from where bytes are kept again. The piece ends before a
    /// gap. Empty where nothing follows; there may be more later.
    ///
    /// # Errors
    /// The boot is not kept, or a file cannot be read.
    pub fn read_from(&self, boot: u32, offset: u64, limit: usize) -> Result<ConsoleChunk, ConsoleFilesError> {
        self.with_segments(boot, |segments| self.read_run(segments, offset, limit))
    }

    /// The beginning and the end of boot `boot`. Bytes that lie between two gaps count as omitted.
    ///
    /// # Errors
    /// The boot is not kept, or a file cannot be read.
    pub fn snapshot(&self, boot: u32) -> Result<ConsoleSnapshot, ConsoleFilesError> {
        self.with_segments(boot, |segments| {
            let (head, later) = match segments.split_first() {
                Some((first, later)) if first.offset() == 0 => (Some(first), later),
                Some(_) | None => (None, segments),
            };
            let mut snapshot = ConsoleSnapshot::default();
            if let Some(head) = head {
                let whole = usize::try_from(head.len).unwrap_or(usize::MAX);
                if !self.read_segment(head, 0, whole, &mut snapshot.head)? {
                    return Ok(None);
                }
            }
            let head_end = snapshot.head.len() as u64;
            let tail = latest_run(later);
            let tail = &tail[tail.len().saturating_sub(TAIL_SEGMENTS)..];
            let tail_start = tail.first().map_or(head_end, Segment::offset);
            let Some(run) = self.read_run(tail, tail_start, usize::MAX)? else { return Ok(None) };
            snapshot.tail = run.bytes;
            snapshot.omitted = tail_start.saturating_sub(head_end);
            snapshot.total =
                head_end.saturating_add(snapshot.omitted).saturating_add(snapshot.tail.len() as u64);
            Ok(Some(snapshot))
        })
    }

    /// The last `count` lines of boot `boot`, as text, oldest first: blank ones and terminal control left out, long ones
    /// cut. None from before a gap.
    ///
    /// # Errors
    /// The boot is not kept, or a file cannot be read.
    pub fn tail_lines(&self, boot: u32, count: usize) -> Result<Vec<String>, ConsoleFilesError> {
        let latest = self.with_segments(boot, |segments| {
            let run = latest_run(segments);
            let end = run.last().map_or(0, Segment::end);
            let start = run.first().map_or(0, Segment::offset);
            let window = end.saturating_sub(LINES_WINDOW as u64).max(start);
            self.read_run(run, window, LINES_WINDOW)
        })?;
        Ok(last_lines(&latest.bytes, count))
    }

    /// Answers what `read` finds in the segments of `boot`; lists them anew each time it answers `None`, which says that
    /// one of them was removed meanwhile.
    pub(super) fn with_segments<T>(
        &self,
        boot: u32,
        read: impl Fn(&[Segment]) -> Result<Option<T>, ConsoleFilesError>,
    ) -> Result<T, ConsoleFilesError> {
        let directory = self.directory.as_ref().ok_or(ConsoleFilesError::NoSuchBoot(boot))?;
        for _ in 0..ATTEMPTS {
            let mut listing = list(directory.as_fd()).map_err(ConsoleFilesError::List)?;
            let segments = listing.boots.remove(&boot).ok_or(ConsoleFilesError::NoSuchBoot(boot))?;
            let segments: Vec<Segment> = segments.into_iter().map(clamped).collect();
            if let Some(found) = read(&segments)? {
                return Ok(found);
            }
        }
        Err(ConsoleFilesError::Changing(boot))
    }

    /// At most `limit` bytes without a gap, from `offset` on or from where a segment has bytes again. `None` where a
    /// segment is gone.
    pub(super) fn read_run(
        &self,
        segments: &[Segment],
        offset: u64,
        limit: usize,
    ) -> Result<Option<ConsoleChunk>, ConsoleFilesError> {
        let mut chunk = ConsoleChunk { offset, missed: 0, bytes: Vec::new() };
        let mut following = segments.iter().skip_while(|segment| segment.end() <= offset).peekable();
        if let Some(first) = following.peek() {
            chunk.offset = first.offset().max(offset);
            chunk.missed = chunk.offset - offset;
        }
        for segment in following {
            let at = chunk.next_offset();
            let left = limit - chunk.bytes.len();
            if segment.offset() > at || left == 0 {
                break;
            }
            let skipped = at - segment.offset();
            let wanted = usize::try_from(segment.end().saturating_sub(at)).unwrap_or(usize::MAX).min(left);
            if !self.read_segment(segment, skipped, wanted, &mut chunk.bytes)? {
                return Ok(None);
            }
        }
        Ok(Some(chunk))
    }

    /// Appends `count` bytes of `segment` to `bytes`, fewer where its file was cut. Answers whether the file is there.
    fn read_segment(
        &self,
        segment: &Segment,
        skipped: u64,
        count: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, ConsoleFilesError> {
        let Some(file) = self.open_segment(segment)? else { return Ok(false) };
        let begin = bytes.len();
        let end = begin.saturating_add(count);
        bytes.resize(end, 0);
        let mut filled = begin;
        while filled < end {
            match file.read_at(&mut bytes[filled..], skipped + (filled - begin) as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ConsoleFilesError::file(FileAction::Read, segment.name, error)),
            }
        }
        bytes.truncate(filled);
        Ok(true)
    }

    /// `None` where it is gone.
    fn open_segment(&self, segment: &Segment) -> Result<Option<File>, ConsoleFilesError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        // What was listed as a regular file may be something else by now, and must neither be waited for nor followed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(directory, segment.name.to_string(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ConsoleFilesError::file(FileAction::Open, segment.name, error)),
        }
    }
}

/// The segment as far as it is read.
pub(super) fn clamped(segment: Segment) -> Segment {
    Segment { len: segment_len(&segment), ..segment }
}

fn segment_len(segment: &Segment) -> u64 {
    segment.len.min(MOST_OF_A_SEGMENT)
}

/// The last segments that follow each other without a gap.
pub(super) fn latest_run(segments: &[Segment]) -> &[Segment] {
    let follows = |pair: &[Segment]| pair[1].offset() <= pair[0].end();
    let gaps = segments.windows(2).rposition(|pair| !follows(pair));
    &segments[gaps.map_or(0, |before| before + 1)..]
}

fn summary(number: u32, segments: &[Segment]) -> BootSummary {
    let total = segments.iter().map(Segment::end).max().unwrap_or(0);
    let kept = segments.iter().fold(0, |kept: u64, segment| kept.saturating_add(segment_len(segment)));
    let head = segments.first().filter(|segment| segment.offset() == 0);
    BootSummary {
        number,
        total,
        kept,
        omitted: total.saturating_sub(kept),
        begun: head.and_then(|head| head.created),
        last_written: segments.iter().filter_map(|segment| segment.modified).max(),
    }
}

//! Writes a console into segments, and removes what is older than the limits allow.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, retry_on_intr, write};

use super::error::{ConsoleFilesError, FileAction};
use super::listing::{Listing, list};
use super::name::SegmentName;

/// How many numbers are tried for a boot whose number the directory turns out to have.
const NUMBERS_TRIED: usize = 64;

/// How much of a console its directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Bytes kept from the beginning of each boot.
    pub head: u64,
    /// The most bytes of a later segment.
    pub segment: u64,
    /// Later segments kept of each boot, the newest ones. All but the newest of them are full as a rule, so
    /// `(segments - 1) * segment` latest bytes are kept at least.
    pub segments: usize,
    /// Boots kept, the newest ones.
    pub boots: usize,
}

impl Default for FileLimits {
    /// The first and the latest MiB of five boots; 12.5 MiB at most.
    fn default() -> Self {
        Self { head: 1 << 20, segment: 512 << 10, segments: 3, boots: 5 }
    }
}

/// The writing end of a console's directory. There is one at a time.
///
/// Whatever fails can be tried again: the files stay as they are, and what they hold is known.
#[derive(Debug)]
pub(crate) struct SegmentedConsole {
    directory: OwnedFd,
    limits: FileLimits,
    boot: Option<Boot>,
}

/// The boot that is being written.
#[derive(Debug)]
struct Boot {
    number: u32,
    current: OpenSegment,
    /// Offsets of the segments after the head that were not removed, oldest first.
    later: VecDeque<u64>,
}

/// The segment that is being appended to.
#[derive(Debug)]
struct OpenSegment {
    name: SegmentName,
    file: OwnedFd,
    /// The offset after its last byte.
    end: u64,
}

impl SegmentedConsole {
    /// Nothing is read or written yet.
    pub(crate) fn new(directory: OwnedFd, limits: FileLimits) -> Self {
        Self { directory, limits, boot: None }
    }

    /// Begins another boot with an empty head, numbered after the newest in the directory. The oldest boots are removed
    /// to make room, and so is one before this that wrote nothing.
    pub(crate) fn begin_boot(&mut self) -> Result<(), ConsoleFilesError> {
        // Whatever comes next is not of that boot, also where this fails.
        self.boot = None;
        self.boot = Some(self.create_boot()?);
        Ok(())
    }

    /// Appends bytes of the present boot, which begin at `offset` of it and after all that was appended before. Answers
    /// how many of them, from the front, were written: at least one of any, and no more than a segment holds.
    pub(crate) fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<usize, ConsoleFilesError> {
        let mut boot = match self.boot.take() {
            Some(boot) => boot,
            None => self.create_boot()?,
        };
        let written = self.append_to(&mut boot, offset, bytes);
        self.boot = Some(boot);
        written
    }

    fn append_to(&self, boot: &mut Boot, offset: u64, bytes: &[u8]) -> Result<usize, ConsoleFilesError> {
        if boot.current.end != offset || self.room_in(&boot.current) == 0 {
            self.begin_segment(boot, offset)?;
        }
        let room = usize::try_from(self.room_in(&boot.current)).unwrap_or(usize::MAX).max(1);
        let piece = &bytes[..bytes.len().min(room)];
        let failed =
            |source: io::Error| ConsoleFilesError::file(FileAction::Append, boot.current.name, source);
        let written =
            retry_on_intr(|| write(&boot.current.file, piece)).map_err(|error| failed(error.into()))?;
        if written == 0 && !piece.is_empty() {
            return Err(failed(io::ErrorKind::WriteZero.into()));
        }
        boot.current.end = boot.current.end.saturating_add(written as u64);
        Ok(written)
    }

    fn room_in(&self, segment: &OpenSegment) -> u64 {
        let capacity = if segment.name.offset == 0 { self.limits.head } else { self.limits.segment };
        capacity.saturating_sub(segment.end - segment.name.offset)
    }

    fn begin_segment(&self, boot: &mut Boot, offset: u64) -> Result<(), ConsoleFilesError> {
        // First, so that there is never more than the limits allow.
        while boot.later.len() >= self.limits.segments.max(1)
            && let Some(&oldest) = boot.later.front()
        {
            self.remove(SegmentName { boot: boot.number, offset: oldest })?;
            boot.later.pop_front();
        }
        boot.current = self.create(SegmentName { boot: boot.number, offset })?;
        boot.later.push_back(offset);
        Ok(())
    }

    fn create_boot(&self) -> Result<Boot, ConsoleFilesError> {
        let mut listing = list(self.directory.as_fd()).map_err(ConsoleFilesError::List)?;
        self.free_a_number(&mut listing)?;
        let newest_is_empty = listing
            .boots
            .last_key_value()
            .is_some_and(|(_, segments)| segments.iter().all(|segment| segment.len == 0));
        // The new boot counts, and an empty one is removed whatever its age.
        let kept = self.limits.boots.saturating_sub(1) + usize::from(newest_is_empty);
        let surplus = listing.boots.len().saturating_sub(kept);
        let oldest = listing.boots.values().take(surplus);
        let empty = listing.boots.values().next_back().filter(|_| newest_is_empty);
        for segment in oldest.chain(empty).flatten() {
            self.remove(segment.name)?;
        }
        for _ in 0..NUMBERS_TRIED {
            let number = self.free_a_number(&mut listing)?;
            match self.create(SegmentName { boot: number, offset: 0 }) {
                Ok(current) => return Ok(Boot { number, current, later: VecDeque::new() }),
                // In a directory with more entries than are looked at a name may be taken that the listing lacks.
                Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => listing.take(number),
                Err(error) => return Err(error),
            }
        }
        Err(ConsoleFilesError::NoNumber)
    }

    /// The number of the next boot. Where the highest ones are taken, the boots that have them are removed: no guest boots so
    /// often, so a process that was broken into made these files, and later boots are not to be silenced by it.
    fn free_a_number(&self, listing: &mut Listing) -> Result<u32, ConsoleFilesError> {
        loop {
            if let Some(number) = listing.next_number() {
                return Ok(number);
            }
            let Some((_, segments)) = listing.boots.pop_last() else {
                return Err(ConsoleFilesError::NoNumber);
            };
            for segment in segments {
                self.remove(segment.name)?;
            }
        }
    }

    fn create(&self, name: SegmentName) -> Result<OpenSegment, ConsoleFilesError> {
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = retry_on_intr(|| openat(&self.directory, name.to_string(), flags, mode))
            .map_err(|error| ConsoleFilesError::file(FileAction::Create, name, error))?;
        Ok(OpenSegment { name, file, end: name.offset })
    }

    fn remove(&self, name: SegmentName) -> Result<(), ConsoleFilesError> {
        match unlinkat(&self.directory, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(ConsoleFilesError::file(FileAction::Remove, name, error)),
        }
    }
}

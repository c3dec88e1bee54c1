//! Reads a console's files piece by piece, over the end of a boot into the next one.

use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::error::ConsoleFilesError;
use super::listing::{Listing, list};
use super::reader::{ATTEMPTS, ConsoleFiles, clamped, latest_run};
use crate::lines::LINES_WINDOW;

/// A long line of a console. For a tail, so much is read for each.
const LINE: usize = 256;
/// The most that is read for a tail.
const TAIL_WINDOW: usize = 2 << 20;

/// A place in the consoles of a directory. It stays valid over restarts of every process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConsolePosition {
    /// The number of the boot; 0 is before the first.
    pub boot: u32,
    /// Bytes of that boot before the place.
    pub offset: u64,
}

/// What follows a place in a console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsolePiece {
    /// Where the bytes begin: at the place asked for, after a gap, or in a later boot.
    pub position: ConsolePosition,
    /// Bytes of the boot between the place asked for and this piece that are no longer kept.
    pub missed: u64,
    /// The piece, all of one boot. Empty where nothing follows yet.
    pub bytes: Vec<u8>,
}

impl ConsolePiece {
    /// The place to read on from.
    pub fn next_position(&self) -> ConsolePosition {
        let offset = self.position.offset.saturating_add(self.bytes.len() as u64);
        ConsolePosition { offset, ..self.position }
    }
}

impl ConsoleFiles {
    /// At most `limit` bytes that follow `position`. Where its boot has no more and a later one has begun, or where its
    /// boot is no longer kept, the piece is of the next boot. Of a boot that is newer than all that are there, which
    /// says that the directory was made anew, it is of the oldest one.
    ///
    /// # Errors
    /// The directory cannot be listed, or a file cannot be read.
    pub fn read_next(
        &self,
        position: ConsolePosition,
        limit: usize,
    ) -> Result<ConsolePiece, ConsoleFilesError> {
        for _ in 0..ATTEMPTS {
            let Some(listing) = self.listing()? else { break };
            if let Some(piece) = self.read_in(&listing, position, limit)? {
                return Ok(piece);
            }
        }
        // Files that go faster than they can be read are read at the next call.
        Ok(ConsolePiece { position, ..ConsolePiece::default() })
    }

    /// Where the last `lines` lines of the newest boot begin; 0 lines begin at its end. Not before a gap, and no more
    /// than 2 MiB back.
    ///
    /// # Errors
    /// The directory cannot be listed, or a file cannot be read.
    pub fn start_of_tail(&self, lines: usize) -> Result<ConsolePosition, ConsoleFilesError> {
        let Some(boot) = self.newest()? else { return Ok(ConsolePosition::default()) };
        let window = lines.saturating_mul(LINE).clamp(LINES_WINDOW, TAIL_WINDOW);
        let (start, bytes) = self.latest_bytes(boot, window)?;
        let end = start.saturating_add(bytes.len() as u64);
        let back = match lines {
            0 => 0,
            lines => {
                // The end of the last line begins no other.
                let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
                let first = ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0);
                bytes.len() - first
            }
        };
        Ok(ConsolePosition { boot, offset: end.saturating_sub(back as u64) })
    }

    /// The latest `limit` bytes of `boot`, without a gap, and where they begin.
    fn latest_bytes(&self, boot: u32, limit: usize) -> Result<(u64, Vec<u8>), ConsoleFilesError> {
        let chunk = self.with_segments(boot, |segments| {
            let run = latest_run(segments);
            let end = run.last().map_or(0, super::listing::Segment::end);
            let start = run.first().map_or(0, super::listing::Segment::offset);
            self.read_run(run, end.saturating_sub(limit as u64).max(start), limit)
        })?;
        Ok((chunk.offset, chunk.bytes))
    }

    fn listing(&self) -> Result<Option<Listing>, ConsoleFilesError> {
        let Some(directory) = self.directory() else { return Ok(None) };
        list(directory.as_fd()).map(Some).map_err(ConsoleFilesError::List)
    }

    /// `None` where a file of the listing is gone.
    fn read_in(
        &self,
        listing: &Listing,
        asked: ConsolePosition,
        limit: usize,
    ) -> Result<Option<ConsolePiece>, ConsoleFilesError> {
        let newest = listing.boots.last_key_value().map(|(boot, _)| *boot);
        let was_made_anew = newest.is_some_and(|newest| newest < asked.boot);
        let mut position = if was_made_anew { ConsolePosition::default() } else { asked };
        // A boot's bytes are all written before the next boot's file is made, and sizes were read after the names:
        // where a later boot is listed, this one is complete in the listing.
        for (&boot, segments) in listing.boots.range(position.boot..) {
            if boot != position.boot {
                position = ConsolePosition { boot, offset: 0 };
            }
            let segments: Vec<_> = segments.iter().copied().map(clamped).collect();
            let Some(chunk) = self.read_run(&segments, position.offset, limit)? else { return Ok(None) };
            if !chunk.bytes.is_empty() || newest == Some(boot) {
                position.offset = chunk.offset;
                return Ok(Some(ConsolePiece { position, missed: chunk.missed, bytes: chunk.bytes }));
            }
        }
        Ok(Some(ConsolePiece { position, ..ConsolePiece::default() }))
    }
}

#[cfg(test)]
mod tests;

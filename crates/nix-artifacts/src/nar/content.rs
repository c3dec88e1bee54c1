//! Reading one regular file for its archive: data as it lies, holes without reading them.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::NarProgress;
use super::encode::NarEncoder;
use super::feed::{Buffers, Feed, PIECE_SIZE, Piece};

/// Smaller files are not searched for holes: two calls for nothing.
const WORTH_SEARCHING: u64 = 1 << 20;

/// Why the content of a file was not hashed.
pub(super) enum ContentError {
    /// The file has not the size that it had.
    Changed,
    /// It cannot be read.
    Read(io::Error),
    /// The caller said to stop.
    Stopped,
}

/// Hashes the contents of files, one after another.
pub(super) struct ContentReader<'borrow, 'progress> {
    buffers: Buffers,
    /// Bytes of content hashed so far.
    hashed: u64,
    progress: &'borrow mut NarProgress<'progress>,
}

impl<'borrow, 'progress> ContentReader<'borrow, 'progress> {
    /// A reader that tells `progress`.
    pub(super) fn new(progress: &'borrow mut NarProgress<'progress>) -> Self {
        Self { buffers: Buffers::default(), hashed: 0, progress }
    }

    /// Gives the `size` bytes of `file` to `encoder`, and to `feed` as long as that takes them.
    pub(super) fn read(
        &mut self,
        file: &File,
        size: u64,
        encoder: &mut NarEncoder,
        mut feed: Option<Feed>,
    ) -> Result<(), ContentError> {
        let (mut offset, mut data_end) = (0, if size < WORTH_SEARCHING { size } else { 0 });
        while offset < size {
            if offset >= data_end {
                let data = next_data(file, offset, size).map_err(ContentError::Read)?;
                self.hole(offset, data.start, encoder, &mut feed)?;
                (offset, data_end) = (data.start, data.end);
            } else {
                offset += self.data(file, offset, data_end, encoder, &mut feed)?;
            }
        }
        pass_on(&mut feed, || Piece::End { size });
        Ok(())
    }

    /// Reads one piece that begins at `offset` and ends at `end` at most; how long it is.
    fn data(
        &mut self,
        file: &File,
        offset: u64,
        end: u64,
        encoder: &mut NarEncoder,
        feed: &mut Option<Feed>,
    ) -> Result<u64, ContentError> {
        let due = usize::try_from(end - offset).unwrap_or(usize::MAX).min(PIECE_SIZE);
        let filled = self.buffers.fill(|buffer| read_up_to(file, &mut buffer[..due], offset));
        let bytes = filled.map_err(ContentError::Read)?;
        if bytes.is_empty() {
            return Err(ContentError::Changed);
        }
        // First, so that the receiver works while this thread hashes.
        pass_on(feed, || Piece::Data { offset, bytes: bytes.clone() });
        encoder.content(&bytes);
        self.went_on(bytes.len() as u64)?;
        Ok(bytes.len() as u64)
    }

    fn hole(
        &mut self,
        start: u64,
        end: u64,
        encoder: &mut NarEncoder,
        feed: &mut Option<Feed>,
    ) -> Result<(), ContentError> {
        if end > start {
            pass_on(feed, || Piece::Hole { offset: start, length: end - start });
        }
        let mut left = end - start;
        while left > 0 {
            let length = left.min(PIECE_SIZE as u64);
            encoder.zeroes(length);
            self.went_on(length)?;
            left -= length;
        }
        Ok(())
    }

    fn went_on(&mut self, length: u64) -> Result<(), ContentError> {
        self.hashed += length;
        match (self.progress)(self.hashed) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ContentError::Stopped),
        }
    }
}

/// Hands a piece to `feed`, which is given up where it takes no more.
fn pass_on(feed: &mut Option<Feed>, piece: impl FnOnce() -> Piece) {
    if feed.as_ref().is_some_and(|feed| !feed.send(piece())) {
        *feed = None;
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Where data lies at or after `offset`; empty and at the end where only a hole is left.
fn next_data(file: &File, offset: u64, size: u64) -> io::Result<std::ops::Range<u64>> {
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok(size..size),
        // The file system cannot tell: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(offset..size),
        Err(error) => return Err(error.into()),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(Errno::NXIO) => size,
        Err(error) => return Err(error.into()),
    };
    Ok(start..end)
}

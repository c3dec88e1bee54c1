//! A bound on how much compressed data is read for what came out of it so far: an archive of nothing but empty members, or of
//! padding, would otherwise keep a thread busy for as long as a stranger sends.

use std::cell::Cell;
use std::io::{self, Read};

/// How much more may go in than came out, beside the [`SHARE`]th part of that: more than the longest block of all formats.
const MARGIN: u64 = 2 << 20;
/// What does not compress grows by a hundredth at most, with bzip2.
const SHARE: u64 = 64;

/// Reads `source` as long as enough comes out of it.
pub(crate) struct Allowance<'out, R> {
    source: R,
    taken: u64,
    given: &'out Cell<u64>,
}

impl<'out, R> Allowance<'out, R> {
    /// `given` is kept at the number of bytes that came out.
    pub(crate) fn new(source: R, given: &'out Cell<u64>) -> Self {
        Self { source, taken: 0, given }
    }
}

impl<R: Read> Read for Allowance<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let given = self.given.get();
        if self.taken > given.saturating_add(given / SHARE).saturating_add(MARGIN) {
            let problem = format!("{} bytes of it hold no more than {given}", self.taken);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let count = self.source.read(buffer)?;
        self.taken += count as u64;
        Ok(count)
    }
}

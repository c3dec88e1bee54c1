//! The tokens of an archive: strings, each with its length before it and zeros after it.

use std::io::{self, Read};

use super::NarFormatError;

/// Strings are padded to a multiple of this.
const ALIGNMENT: u64 = 8;
/// The longest word of the format itself.
const LONGEST_WORD: u64 = 16;

/// Reads tokens of a stream.
pub(super) struct Tokens<R> {
    source: R,
    offset: u64,
}

impl<R: Read> Tokens<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, offset: 0 }
    }

    /// An error about what was read last.
    pub(super) fn wrong(&self, problem: &'static str) -> NarFormatError {
        NarFormatError::Format { offset: self.offset, problem }
    }

    /// Reads one of the words of the format; which one is left to the caller.
    pub(super) fn word(&mut self) -> Result<Vec<u8>, NarFormatError> {
        self.string(LONGEST_WORD, "a word of the format is longer than any that there is")
    }

    /// Reads the word `expected`.
    pub(super) fn expect(
        &mut self,
        expected: &'static str,
        problem: &'static str,
    ) -> Result<(), NarFormatError> {
        if self.word()? == expected.as_bytes() { Ok(()) } else { Err(self.wrong(problem)) }
    }

    /// Reads a string of at most `longest` bytes.
    pub(super) fn string(&mut self, longest: u64, problem: &'static str) -> Result<Vec<u8>, NarFormatError> {
        let length = self.length()?;
        if length > longest {
            return Err(self.wrong(problem));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.wrong(problem))?];
        self.fill(&mut bytes)?;
        self.padding(length)?;
        Ok(bytes)
    }

    /// Reads the length of what follows.
    pub(super) fn length(&mut self) -> Result<u64, NarFormatError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Fills `buffer` with what follows.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NarFormatError> {
        let offset = self.offset;
        self.source.read_exact(buffer).map_err(|source| NarFormatError::Read { offset, source })?;
        // A length in memory always fits 64 bits.
        self.offset = offset.saturating_add(buffer.len() as u64);
        Ok(())
    }

    /// Reads what follows a string of `length` bytes.
    pub(super) fn padding(&mut self, length: u64) -> Result<(), NarFormatError> {
        let mut bytes = [0; 8];
        let missing = usize::try_from((ALIGNMENT - length % ALIGNMENT) % ALIGNMENT).unwrap_or(0);
        self.fill(&mut bytes[..missing])?;
        if bytes == [0; 8] { Ok(()) } else { Err(self.wrong("padding is not of zeros")) }
    }

    /// Checks that nothing follows.
    pub(super) fn end(&mut self) -> Result<(), NarFormatError> {
        let mut byte = [0; 1];
        loop {
            match self.source.read(&mut byte) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(self.wrong("something follows the archive")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NarFormatError::Read { offset: self.offset, source }),
            }
        }
    }
}

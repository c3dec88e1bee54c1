//! Which files an archive has, in the order in which it has them. What becomes of them is the receiver's.

use std::io::Read;

use super::NarFormatError;
use super::tokens::Tokens;

/// Directories accepted inside one another.
pub(super) const DEEPEST: usize = 256;
/// Entries accepted in all: each costs the host a file whatever its size.
pub(super) const MOST_ENTRIES: usize = 1 << 20;
/// The longest name of a file (`NAME_MAX`).
const LONGEST_NAME: u64 = 255;
/// The longest target of a symbolic link (`PATH_MAX`, its final zero not counted).
const LONGEST_TARGET: u64 = 4095;
/// How much of a file is handed on at once.
const PIECE: usize = 128 << 10;

/// Takes the files of an archive. A node is taken below the directory that was entered last; `name` is one component
/// without `/` and NUL, neither `.` nor `..`, and empty for the archive's root.
pub(super) trait Receiver {
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), NarFormatError>;
    /// A file of `size` bytes begins; they follow in pieces.
    fn begin_file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), NarFormatError>;
    fn content(&mut self, bytes: &[u8]) -> Result<(), NarFormatError>;
    fn end_file(&mut self) -> Result<(), NarFormatError>;
    fn enter(&mut self, name: &[u8]) -> Result<(), NarFormatError>;
    fn leave(&mut self) -> Result<(), NarFormatError>;
}

/// Reads the whole archive `source`, its end included.
pub(super) fn read(source: impl Read, receiver: &mut impl Receiver) -> Result<(), NarFormatError> {
    let mut reader = Reader { tokens: Tokens::new(source), receiver, entries: 0, buffer: vec![0; PIECE] };
    reader.tokens.expect("nix-archive-1", "it does not begin as an archive does")?;
    reader.node(&[], 0)?;
    reader.tokens.end()
}

struct Reader<'receiver, R, S> {
    tokens: Tokens<R>,
    receiver: &'receiver mut S,
    entries: usize,
    buffer: Vec<u8>,
}

impl<R: Read, S: Receiver> Reader<'_, R, S> {
    fn node(&mut self, name: &[u8], depth: usize) -> Result<(), NarFormatError> {
        self.tokens.expect("(", "a file does not begin with a parenthesis")?;
        self.tokens.expect("type", "a file does not begin with its type")?;
        match self.tokens.word()?.as_slice() {
            b"regular" => self.regular(name),
            b"symlink" => self.symlink(name),
            b"directory" if depth < DEEPEST => self.directory(name, depth),
            b"directory" => Err(self.tokens.wrong("directories lie more than 256 deep inside one another")),
            _ => Err(self.tokens.wrong("a file is neither regular, directory nor symlink")),
        }
    }

    fn symlink(&mut self, name: &[u8]) -> Result<(), NarFormatError> {
        self.tokens.expect("target", "a link has no target")?;
        let target = self.tokens.string(LONGEST_TARGET, "a link's target is longer than 4095 bytes")?;
        if target.is_empty() || target.contains(&0) {
            return Err(self.tokens.wrong("a link's target is empty or has a zero in it"));
        }
        self.receiver.symlink(name, &target)?;
        self.tokens.expect(")", "a link does not end after its target")
    }

    fn regular(&mut self, name: &[u8]) -> Result<(), NarFormatError> {
        let mut word = self.tokens.word()?;
        let executable = word == b"executable";
        if executable {
            self.tokens.expect("", "what follows executable is not empty")?;
            word = self.tokens.word()?;
        }
        // An empty file may have no contents at all.
        if word == b")" {
            self.receiver.begin_file(name, executable, 0)?;
            return self.receiver.end_file();
        }
        if word != b"contents" {
            return Err(self.tokens.wrong("a file has something other than executable and contents"));
        }
        let size = self.tokens.length()?;
        self.receiver.begin_file(name, executable, size)?;
        let mut left = size;
        while left > 0 {
            let due = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            self.tokens.fill(&mut self.buffer[..due])?;
            self.receiver.content(&self.buffer[..due])?;
            left -= due as u64;
        }
        self.tokens.padding(size)?;
        self.receiver.end_file()?;
        self.tokens.expect(")", "a file does not end after its contents")
    }

    fn directory(&mut self, name: &[u8], depth: usize) -> Result<(), NarFormatError> {
        self.receiver.enter(name)?;
        let mut last: Vec<u8> = Vec::new();
        loop {
            match self.tokens.word()?.as_slice() {
                b")" => return self.receiver.leave(),
                b"entry" => {}
                _ => return Err(self.tokens.wrong("a directory has something other than entries")),
            }
            self.tokens.expect("(", "an entry does not begin with a parenthesis")?;
            self.tokens.expect("name", "an entry has no name")?;
            let name = self.tokens.string(LONGEST_NAME, "a name is longer than 255 bytes")?;
            self.check_entry(&name, &last)?;
            self.tokens.expect("node", "an entry has no file")?;
            self.node(&name, depth + 1)?;
            self.tokens.expect(")", "an entry does not end after its file")?;
            last = name;
        }
    }

    fn check_entry(&mut self, name: &[u8], last: &[u8]) -> Result<(), NarFormatError> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return Err(self.tokens.wrong("it has more than 1048576 files"));
        }
        let is_special = name.is_empty() || name == b"." || name == b"..";
        if is_special || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(self.tokens.wrong("a name is no file name"));
        }
        // Of two names that are the same, the second is not greater either.
        if name <= last {
            return Err(self.tokens.wrong("names are not in strictly ascending order"));
        }
        Ok(())
    }
}

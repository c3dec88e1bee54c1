//! Makes the files of an archive, below an open directory and nowhere else: every file is made anew, by its name alone, below
//! a directory that was made a moment before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat, symlinkat, utimensat,
};

use super::NarFormatError;
use super::tree::{Receiver, read};

/// Blocks of zeros of this size become holes.
const BLOCK: usize = 4096;
/// The time of every file of a store, as Nix sets it: one second after the epoch.
const TIME: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
const TIMES: Timestamps = Timestamps { last_access: TIME, last_modification: TIME };

/// Unpacks the archive `source` as `name` in `directory`, where nothing of that name is. What was made stays where this fails.
///
/// # Errors
/// `source` is no archive, or a file cannot be made.
pub(crate) fn unpack(source: impl Read, directory: BorrowedFd<'_>, name: &str) -> Result<(), NarFormatError> {
    let mut unpacker = Unpacker { base: directory, root: name, open: Vec::new(), file: None };
    read(source, &mut unpacker)
}

struct Unpacker<'place> {
    base: BorrowedFd<'place>,
    root: &'place str,
    /// The directories that were entered, with their names.
    open: Vec<(OwnedFd, Vec<u8>)>,
    file: Option<OpenFile>,
}

/// The file whose content comes.
struct OpenFile {
    file: File,
    name: Vec<u8>,
    mode: Mode,
    offset: u64,
    size: u64,
}

impl Unpacker<'_> {
    fn parent(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.base, |(directory, _)| directory.as_fd())
    }

    /// The name to use for the node `name`: the archive's root has none of its own.
    fn name<'name>(&'name self, name: &'name [u8]) -> &'name [u8] {
        if self.open.is_empty() { self.root.as_bytes() } else { name }
    }

    fn failed(&self, operation: &'static str, name: &[u8], source: impl Into<io::Error>) -> NarFormatError {
        let below = self.open.iter().skip(1).map(|(_, name)| name.as_slice());
        let parts: Vec<_> = below.chain([name]).map(String::from_utf8_lossy).collect();
        NarFormatError::Write { operation, path: parts.join("/"), source: source.into() }
    }
}

impl Receiver for Unpacker<'_> {
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), NarFormatError> {
        let (parent, own) = (self.parent(), self.name(name));
        symlinkat(target, parent, own)
            .and_then(|()| utimensat(parent, own, &TIMES, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| self.failed("make the link", name, errno))
    }

    fn begin_file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), NarFormatError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(self.parent(), self.name(name), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed("make the file", name, errno))?;
        let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
        self.file = Some(OpenFile { file: opened.into(), name: name.to_owned(), mode, offset: 0, size });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), NarFormatError> {
        let Some(mut open) = self.file.take() else { return Ok(()) };
        let written = open.write(bytes).map_err(|error| self.failed("write", &open.name, error));
        self.file = Some(open);
        written
    }

    fn end_file(&mut self) -> Result<(), NarFormatError> {
        let Some(open) = self.file.take() else { return Ok(()) };
        open.finish().map_err(|error| self.failed("finish", &open.name, error))
    }

    fn enter(&mut self, name: &[u8]) -> Result<(), NarFormatError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, own) = (self.parent(), self.name(name));
        let opened = mkdirat(parent, own, Mode::RWXU)
            .and_then(|()| openat(parent, own, flags, Mode::empty()))
            .map_err(|errno| self.failed("make the directory", name, errno))?;
        self.open.push((opened, name.to_owned()));
        Ok(())
    }

    fn leave(&mut self) -> Result<(), NarFormatError> {
        let Some((directory, name)) = self.open.pop() else { return Ok(()) };
        fchmod(&directory, Mode::from_raw_mode(0o555))
            .and_then(|()| futimens(&directory, &TIMES))
            .map_err(|errno| self.failed("finish the directory", &name, errno))
    }
}

impl OpenFile {
    /// Writes the next bytes; where they are zeros in whole blocks, nothing is written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        const ZEROES: [u8; BLOCK] = [0; BLOCK];
        let mut pending = 0..0;
        for start in (0..bytes.len()).step_by(BLOCK) {
            let end = (start + BLOCK).min(bytes.len());
            if bytes[start..end] == ZEROES[..end - start] {
                self.write_range(bytes, &pending)?;
                pending = end..end;
            } else {
                pending.end = end;
            }
        }
        self.write_range(bytes, &pending)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn write_range(&self, bytes: &[u8], range: &std::ops::Range<usize>) -> io::Result<()> {
        self.file.write_all_at(&bytes[range.clone()], self.offset + range.start as u64)
    }

    fn finish(&self) -> io::Result<()> {
        // What ends in a hole has no size yet.
        self.file.set_len(self.size)?;
        fchmod(&self.file, self.mode)?;
        Ok(futimens(&self.file, &TIMES)?)
    }
}

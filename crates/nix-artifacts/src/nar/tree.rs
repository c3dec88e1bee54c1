//! Walking a store path in the archive's order, with bounded memory and no trust in the file system standing
//! still: every file is opened by one component below an open directory, and one that changes while it is read
//! is an error, not a wrong hash.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Dir, FileType, OFlags, Stat, fstat, readlinkat};
use rustix::io::Errno;
use thiserror::Error;

use super::NarHash;
use super::encode::NarEncoder;
use crate::store::{describe, open_component};

/// Directories inside one another; one descriptor is held open for each.
const MAX_DEPTH: usize = 256;
/// Entries of one directory, whose names are held in memory to be sorted.
const MAX_ENTRIES: usize = 1 << 20;
/// Bytes read at a time: large enough that system calls do not count beside the hashing.
const BUFFER_SIZE: usize = 256 << 10;

/// Told after each piece that was hashed how many bytes of file content have been hashed so far; answers
/// whether to go on.
pub type NarProgress<'progress> = dyn FnMut(u64) -> ControlFlow<()> + 'progress;

/// Why a path has no archive.
#[derive(Debug, Error)]
pub enum NarError {
    /// A file is of a kind that an archive cannot hold.
    #[error(
        "cannot hash {path:?}: it is {found}; regular files, directories and symbolic links are accepted"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file changed while it was read.
    #[error("cannot hash {path:?}: it changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Directories lie too deep inside one another.
    #[error("cannot hash {path:?}: directories more than {limit} deep are not accepted")]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// Directories accepted inside one another.
        limit: usize,
    },
    /// A directory has too many entries.
    #[error("cannot hash {path:?}: a directory of more than {limit} entries is not accepted")]
    TooManyEntries {
        /// The directory.
        path: PathBuf,
        /// Entries accepted.
        limit: usize,
    },
    /// A file could not be opened or read.
    #[error("cannot read {path:?} to hash it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The caller's progress function said to stop.
    #[error("hashing {path:?} was stopped")]
    Stopped {
        /// The file that was being hashed.
        path: PathBuf,
    },
}

/// The hash of what `name` in `directory` holds; `path` names it in errors.
pub(super) fn hash_tree(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    progress: &mut NarProgress<'_>,
) -> Result<NarHash, NarError> {
    let mut walk = TreeWalk {
        encoder: NarEncoder::new(),
        path: path.to_owned(),
        open: Vec::new(),
        buffer: vec![0; BUFFER_SIZE],
        hashed: 0,
        progress,
    };
    walk.node(directory, name)?;
    while walk.next_entry()? {}
    Ok(walk.encoder.finish())
}

/// A directory whose entries are being written.
struct OpenDirectory {
    directory: Rc<OwnedFd>,
    /// Names still to come, the next one last.
    remaining: Vec<OsString>,
}

/// Whether a node is complete, or a directory whose entries are still to come.
enum Node {
    Complete,
    DirectoryBegun,
}

struct TreeWalk<'borrow, 'progress> {
    encoder: NarEncoder,
    /// Where we stand, for errors.
    path: PathBuf,
    /// The directories we are in, the innermost last.
    open: Vec<OpenDirectory>,
    buffer: Vec<u8>,
    hashed: u64,
    progress: &'borrow mut NarProgress<'progress>,
}

impl TreeWalk<'_, '_> {
    /// Writes the next entry of the innermost open directory, or closes it; false when none is open.
    fn next_entry(&mut self) -> Result<bool, NarError> {
        let Some(innermost) = self.open.last_mut() else {
            return Ok(false);
        };
        let Some(name) = innermost.remaining.pop() else {
            self.open.pop();
            self.encoder.end_directory();
            if !self.open.is_empty() {
                self.encoder.end_entry();
                self.path.pop();
            }
            return Ok(true);
        };
        let parent = Rc::clone(&innermost.directory);
        self.encoder.begin_entry(name.as_bytes());
        self.path.push(&name);
        if let Node::Complete = self.node(parent.as_fd(), &name)? {
            self.encoder.end_entry();
            self.path.pop();
        }
        Ok(true)
    }

    /// Writes the node `name`; a directory is only begun.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Node, NarError> {
        let found = open_component(parent, name, OFlags::PATH).map_err(|source| self.unreadable(source))?;
        let status = fstat(&found).map_err(|source| self.unreadable(source))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = self.reopen(parent, name, flags, &status)?;
                self.regular(File::from(file), &status)?;
                Ok(Node::Complete)
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let directory = self.reopen(parent, name, flags, &status)?;
                self.directory(directory)?;
                Ok(Node::DirectoryBegun)
            }
            FileType::Symlink => {
                let target = readlinkat(&found, c"", Vec::new()).map_err(|source| self.unreadable(source))?;
                self.encoder.symlink(target.as_bytes());
                Ok(Node::Complete)
            }
            kind => Err(NarError::Kind { path: self.path.clone(), found: describe(kind) }),
        }
    }

    /// Opens for reading what was looked at before, and makes sure that it is still the same.
    fn reopen(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        flags: OFlags,
        seen: &Stat,
    ) -> Result<OwnedFd, NarError> {
        let opened = open_component(parent, name, flags).map_err(|source| self.unreadable(source))?;
        let status = fstat(&opened).map_err(|source| self.unreadable(source))?;
        if (status.st_dev, status.st_ino) == (seen.st_dev, seen.st_ino) {
            Ok(opened)
        } else {
            Err(self.changed())
        }
    }

    fn regular(&mut self, mut file: File, status: &Stat) -> Result<(), NarError> {
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let executable = status.st_mode & 0o100 != 0;
        self.encoder.begin_file(executable, size);
        let mut left = size;
        loop {
            // One byte more than is due shows a file that grew.
            let due = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX);
            let room = due.min(self.buffer.len());
            let count = match file.read(&mut self.buffer[..room]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            if count == 0 {
                break;
            }
            left = left.checked_sub(count as u64).ok_or_else(|| self.changed())?;
            self.encoder.content(&self.buffer[..count]);
            self.hashed += count as u64;
            if (self.progress)(self.hashed).is_break() {
                return Err(NarError::Stopped { path: self.path.clone() });
            }
        }
        if left > 0 {
            return Err(self.changed());
        }
        self.encoder.end_file(size);
        Ok(())
    }

    fn directory(&mut self, directory: OwnedFd) -> Result<(), NarError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(NarError::TooDeep { path: self.path.clone(), limit: MAX_DEPTH });
        }
        let mut names = Vec::new();
        let listing = Dir::read_from(&directory).map_err(|source| self.unreadable(source))?;
        for entry in listing {
            let entry = entry.map_err(|source| self.unreadable(source))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == MAX_ENTRIES {
                return Err(NarError::TooManyEntries { path: self.path.clone(), limit: MAX_ENTRIES });
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        names.sort_unstable_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
        self.encoder.begin_directory();
        self.open.push(OpenDirectory { directory: Rc::new(directory), remaining: names });
        Ok(())
    }

    fn changed(&self) -> NarError {
        NarError::Changed { path: self.path.clone() }
    }

    fn failed(&self, source: io::Error) -> NarError {
        NarError::Read { path: self.path.clone(), source }
    }

    /// An entry that was listed and is gone, or something that became a link, has changed; anything else is the
    /// kernel's word.
    fn unreadable(&self, source: Errno) -> NarError {
        match source {
            Errno::LOOP | Errno::NOTDIR => self.changed(),
            Errno::NOENT if !self.open.is_empty() => self.changed(),
            _ => self.failed(source.into()),
        }
    }
}

//! Opening one component below an open directory, and what an opened file is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use thiserror::Error;
use vm_model::FileIdentity;

use super::identity::identify;

/// A regular file below a store root, opened for reading.
#[derive(Debug)]
pub struct OpenedFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) identity: FileIdentity,
}

/// A file is not what it was when it was opened.
#[derive(Debug, Error)]
#[error("{path:?} was changed after it was opened: {difference}")]
pub struct ChangedFile {
    /// Where the file lies.
    pub path: PathBuf,
    /// What is different, in words.
    pub difference: String,
}

/// Tells whether an opened file is still what it was when it was opened, also after [`OpenedFile::into_file`].
#[derive(Debug)]
pub struct FileWatch {
    descriptor: OwnedFd,
    path: PathBuf,
    identity: FileIdentity,
}

impl FileWatch {
    /// Makes sure that the file was not changed since it was opened.
    ///
    /// # Errors
    /// Says what is different about the file.
    pub fn check(&self) -> Result<(), ChangedFile> {
        check(self.descriptor.as_fd(), &self.path, &self.identity)
    }
}

impl OpenedFile {
    /// The open file, close-on-exec and at offset 0.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The open file alone.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Where the file really lies, every link resolved; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// What the file was when it was opened.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Makes sure that the file was not changed since it was opened.
    ///
    /// # Errors
    /// Says what is different about the file.
    pub fn check_unchanged(&self) -> Result<(), ChangedFile> {
        check(self.file.as_fd(), &self.path, &self.identity)
    }

    /// What tells later whether the file was changed.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn watch(&self) -> io::Result<FileWatch> {
        let descriptor = self.file.as_fd().try_clone_to_owned()?;
        Ok(FileWatch { descriptor, path: self.path.clone(), identity: self.identity })
    }
}

impl AsFd for OpenedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(descriptor: BorrowedFd<'_>, path: &Path, seen: &FileIdentity) -> Result<(), ChangedFile> {
    let difference = match identify(descriptor) {
        Ok(now) => seen.difference(&now),
        Err(error) => Some(format!("its identity cannot be read: {error}")),
    };
    match difference {
        Some(difference) => Err(ChangedFile { path: path.to_owned(), difference }),
        None => Ok(()),
    }
}

/// Opens `name` in `directory`, neither following a link nor leaving the directory.
pub(crate) fn open_component(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    openat2(directory, name, flags, Mode::empty(), resolve)
}

/// A kind of file in words.
pub(crate) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "a file of unknown kind",
    }
}

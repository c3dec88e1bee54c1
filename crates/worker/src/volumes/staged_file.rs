//! The file of a content that was made for a start and of which no record speaks yet.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::copy::{complete, is_at};
use super::directory::remove_file;

/// The file of a content that was made for a start. Dropping it deletes the file, unless it was handed over: nothing is left
/// of a start that nobody waits for any more.
#[derive(Debug)]
pub(super) struct StagedFile {
    path: PathBuf,
    /// It stays open: what lies at `path` later may be what another start made.
    file: File,
    is_handed_over: bool,
}

impl StagedFile {
    /// The `file` that was made at `path`.
    pub(super) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, is_handed_over: false }
    }

    /// How many bytes it has; nothing where it is not there any more, or another one is in its place.
    pub(super) fn size(&self) -> Option<u64> {
        let found = self.file.metadata().ok()?;
        is_at(&self.file, &self.path).then_some(found.len())
    }

    /// Gives it at least `size` bytes, and brings it to stable storage.
    pub(super) fn complete(&self, size: u64) -> io::Result<()> {
        complete(&self.file, size)
    }

    /// It belongs to a record from now on.
    pub(super) fn hand_over(&mut self) {
        self.is_handed_over = true;
    }

    /// Deletes it, and directories that are empty without it. Blocks for as long as deleting a file takes.
    pub(super) fn delete(&self) {
        // What stays is overwritten by the next start, or goes when the store is opened.
        if is_at(&self.file, &self.path) && remove_file(&self.path).is_ok() {
            remove_empty_directories(&self.path);
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.delete();
        }
    }
}

/// Removes the directories of the volume and of the VM, in which `path` lies, where nothing else is in them.
pub(super) fn remove_empty_directories(path: &Path) {
    // One that is not empty is not removed.
    let _ = path.ancestors().skip(1).take(2).try_for_each(fs::remove_dir);
}

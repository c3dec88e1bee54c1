//! Space that is set aside for the worker's own records, so that a guest which fills the disk keeps nothing from being
//! recorded: removals, ends of runs, addresses.
//!
//! It is a file of blocks that nobody uses. A record that finds no space takes some of them, and they are taken back when
//! there is space again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use serde::Serialize;
use tracing::warn;

use super::atomic_file::{self, WriteError};

const FILE: &str = "reserve";
/// Enough for hundreds of records.
const SIZE: u64 = 4 << 20;
/// A small file system is not filled by it: at most one in so many of its bytes.
const SHARE: u64 = 16;
/// In how many pieces it is used up.
const PIECES: u64 = 8;

/// Writes records, with space set aside for them. Cloning is cheap; all clones share it.
#[derive(Clone, Debug)]
pub(crate) struct RecordWriter(Arc<Reserve>);

#[derive(Debug)]
struct Reserve {
    path: PathBuf,
    /// As much as should be there; nothing where the file system gives none.
    size: u64,
    /// Absent where it could not be made. Held while blocks are taken or taken back.
    file: Mutex<Option<File>>,
}

impl RecordWriter {
    /// Sets space aside in `state_dir`, or what of it there is; that there is little is logged.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let (file, size) = match open(&path) {
            Ok((file, size)) => (Some(file), size),
            Err(error) => {
                warn!(file = %path.display(), %error, "no space is set aside for records");
                (None, 0)
            }
        };
        let reserve = Reserve { path, size, file: Mutex::new(file) };
        reserve.fill();
        Self(Arc::new(reserve))
    }

    /// Replaces the file at `path` by `content` marked with `version`; on return it is on stable storage.
    pub(crate) fn write_versioned<T: Serialize>(
        &self,
        path: &Path,
        version: u32,
        content: &T,
    ) -> Result<(), WriteError> {
        self.write(|| atomic_file::write_versioned(path, version, content))
    }

    /// Like [`RecordWriter::write_versioned`], for content that has a `version` of its own.
    pub(crate) fn write_json<T: Serialize>(&self, path: &Path, content: &T) -> Result<(), WriteError> {
        self.write(|| atomic_file::write_json(path, content))
    }

    /// Gives some of the space back where there is none left, for a file of others without which the worker cannot start. It
    /// is taken back with the next record.
    pub(crate) fn make_room(&self) {
        if self.0.is_needed() {
            self.0.give();
        }
    }

    /// What is to be told of a disk that has no space left, in words; `None` where there is some.
    pub(crate) fn shortage(&self) -> Option<String> {
        self.0.fill();
        let Reserve { path, size, .. } = &*self.0;
        // The directory is what an operator knows, and where room is to be made.
        let directory = path.parent().unwrap_or(path).display();
        let Some(left) = self.0.left() else {
            return Some(format!("no space is set aside for records: {} cannot be made", path.display()));
        };
        let is_short = left < *size || self.0.is_needed();
        is_short.then(|| match left {
            0 => format!("the disk of {directory} is full, and what was set aside for records is used up: nothing can be recorded until there is space"),
            left => format!("the disk of {directory} is full: records go to the space set aside for them, {left} bytes of {size}"),
        })
    }

    /// What is to be told where nothing can be recorded at this moment.
    pub(crate) fn exhaustion(&self) -> Option<String> {
        let told = self.shortage()?;
        (self.0.left() == Some(0)).then_some(told)
    }

    fn write(&self, write: impl Fn() -> Result<(), WriteError>) -> Result<(), WriteError> {
        loop {
            match write() {
                Err(problem) if is_for_want_of_space(problem.source()) && self.0.give() => {}
                Ok(()) => {
                    self.0.fill();
                    return Ok(());
                }
                Err(problem) => return Err(problem),
            }
        }
    }
}

fn is_for_want_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let system = fstatvfs(&file)?;
    let size = SIZE.min(system.f_blocks.saturating_mul(system.f_frsize) / SHARE);
    Ok((file, size))
}

impl Reserve {
    /// Gives some of the blocks back to the file system; whether there were any.
    fn give(&self) -> bool {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = file.as_ref() else { return false };
        let left = file.metadata().map_or(0, |metadata| metadata.len());
        if left == 0 {
            return false;
        }
        warn!(file = %self.path.display(), left, "the disk is full: a record is written to space set aside for it");
        file.set_len(left.saturating_sub((self.size / PIECES).max(1))).is_ok()
    }

    /// How many bytes there are; `None` where it could not be made.
    fn left(&self) -> Option<u64> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map(|file| file.metadata().map_or(0, |metadata| metadata.len()))
    }

    /// Whether the file system has no blocks left beside these.
    fn is_needed(&self) -> bool {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().and_then(|file| fstatvfs(file).ok()).is_some_and(|system| system.f_bavail == 0)
    }

    /// Takes blocks until it is whole, as far as there are any.
    fn fill(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = file.as_ref() else { return };
        let left = file.metadata().map_or(self.size, |metadata| metadata.len());
        if left < self.size {
            // A disk that is still full gives none: next time, perhaps.
            let _ = fallocate(file, FallocateFlags::empty(), left, self.size - left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use test_host::SmallFileSystem;

    use super::*;

    #[test]
    fn a_record_is_written_to_a_full_disk_until_the_space_set_aside_is_used_up() {
        let file_system = SmallFileSystem::new(1 << 20);
        let directory = file_system.path();
        let directory = directory.as_path();
        let writer = RecordWriter::open(directory);
        assert_eq!(fs::metadata(directory.join(FILE)).expect("there").len(), (1 << 20) / SHARE);
        file_system.fill();
        let told = writer.shortage().expect("it is full");
        let expected = format!("the disk of {} is full: records go to", directory.display());
        assert!(told.starts_with(&expected), "{told}");
        writer.write_json(&directory.join("a.json"), &"small").expect("there is space for it");
        let large = "x".repeat(1 << 19);
        let error = writer.write_json(&directory.join("b.json"), &large).expect_err("too large");
        assert!(is_for_want_of_space(error.source()), "{error}");
        assert_eq!(fs::metadata(directory.join(FILE)).expect("there").len(), 0);
        file_system.fill();
        assert!(writer.shortage().is_some_and(|told| told.contains("nothing can be recorded")));
        assert_eq!(writer.exhaustion(), writer.shortage());

        file_system.make_room();
        assert_eq!(writer.shortage(), None);
        writer.write_json(&directory.join("c.json"), &"small").expect("there is space");
        file_system.fill();
        fs::write(directory.join("of-others"), "x").expect_err("it is full");
        writer.make_room();
        fs::write(directory.join("of-others"), "x").expect("room was made");

        file_system.make_room();
        writer.write_json(&directory.join("a.json"), &"smaller").expect("there is space");
        let left = fs::metadata(directory.join(FILE)).expect("there").len();
        assert_eq!(left, (1 << 20) / SHARE, "it is taken back");
    }
}

//! The files of one volume.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::record::VolumeRecord;
use super::staged_file::remove_empty_directories;
use crate::records::{ReadError, RecordWriter, WriteError, discard_unfinished, make_private, read_in_place};

const VERSION: u32 = 1;
const RECORD: &str = "volume.json";

/// The directory of one volume.
#[derive(Clone, Debug)]
pub(super) struct VolumeDirectory {
    path: PathBuf,
    writer: RecordWriter,
}

impl VolumeDirectory {
    pub(super) fn new(path: PathBuf, writer: RecordWriter) -> Self {
        Self { path, writer }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the content `number` lies.
    pub(super) fn content(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number}.img"))
    }

    /// Where the record lies.
    pub(super) fn record(&self) -> PathBuf {
        self.path.join(RECORD)
    }

    /// Where the content `number` lies until a record speaks of it. One that none speaks of is a start that was cut short.
    pub(super) fn staged(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number}.staged"))
    }

    /// Gives the staged content `number` its name, if it has not got it yet.
    pub(super) fn adopt(&self, number: u64) -> io::Result<()> {
        let (staged, content) = (self.staged(number), self.content(number));
        match renameat_with(CWD, &staged, CWD, &content, RenameFlags::NOREPLACE) {
            Err(Errno::NOENT) => Ok(()),
            // What has the name is what a guest wrote to; nothing takes its place.
            Err(Errno::EXIST) => remove_file(&staged),
            renamed => renamed.map_err(io::Error::from).and_then(|()| File::open(&self.path)?.sync_all()),
        }
    }

    /// Creates the directory; on return it is on stable storage.
    pub(super) fn create(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Ok(());
        }
        make_private(&self.path)?;
        let above = self.path.ancestors().skip(1).take(2);
        above.into_iter().try_for_each(|directory| File::open(directory)?.sync_all())
    }

    /// What is on record, if anything is. A damaged record stays where it is: without it, what lies beside it would look as
    /// if it had never been used.
    pub(super) fn load(&self) -> Result<Option<VolumeRecord>, ReadError> {
        read_in_place(&self.path.join(RECORD), VERSION)
    }

    /// Puts `record` on stable storage.
    pub(super) fn save(&self, record: &VolumeRecord) -> Result<(), WriteError> {
        self.writer.write_versioned(&self.path.join(RECORD), VERSION, record)
    }

    /// The sizes of all contents that lie here, by number.
    pub(super) fn sizes(&self) -> io::Result<BTreeMap<u64, u64>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut sizes = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            // A link in the place of a file is no content of ours.
            if let Some(number) = number_of(&entry.path())
                && entry.file_type()?.is_file()
            {
                sizes.insert(number, entry.metadata()?.len());
            }
        }
        Ok(sizes)
    }

    /// The file of the content `number`, also one that has not got its name yet. A link in the place of a file is none.
    pub(super) fn find(&self, number: u64) -> Option<Metadata> {
        let found =
            self.content(number).symlink_metadata().or_else(|_| self.staged(number).symlink_metadata());
        found.ok().filter(Metadata::is_file)
    }

    /// Deletes what no record speaks of: an unfinished record, contents that were being made, and those whose deletion was cut short. Only where
    /// what is in use is there is anything known to be superfluous.
    pub(super) fn sweep(&self, record: Option<&VolumeRecord>) -> io::Result<()> {
        discard_unfinished(&self.path.join(RECORD));
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let staged = name.strip_suffix(".staged").and_then(|number| number.parse::<u64>().ok());
            let is_superfluous = match (staged, number_of(&path), record) {
                (Some(number), _, record) => record.is_none_or(|record| record.current != Some(number)),
                (None, Some(number), Some(record)) => {
                    record.current.is_some_and(|current| self.content(current).exists())
                        && !record.contents.contains_key(&number)
                }
                (None, Some(_), None) | (None, None, _) => false,
            };
            if is_superfluous {
                remove_file(&path)?;
            }
        }
        if record.is_none() {
            remove_empty_directories(&self.path.join(RECORD));
        }
        Ok(())
    }

    /// Finds out whether a file here can have `size` bytes.
    pub(super) fn try_size(&self, size: u64) -> io::Result<()> {
        let nameless = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
        match OpenOptions::new().write(true).custom_flags(nameless).open(&self.path) {
            Ok(file) => file.set_len(size),
            // Not every file system has such files: then it is found out later.
            Err(_) => Ok(()),
        }
    }

    /// Opens the content `number` for reading and writing.
    pub(super) fn open(&self, number: u64) -> io::Result<File> {
        let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        OpenOptions::new().read(true).write(true).custom_flags(no_links).open(self.content(number))
    }

    /// Deletes the content `number`, also one that is only staged. One that is not there is fine.
    pub(super) fn delete(&self, number: u64) -> io::Result<()> {
        remove_file(&self.staged(number))?;
        remove_file(&self.content(number))
    }
}

/// Removes a file. One that is not there is fine.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether `error` says that there is no such file, or something else in the place of its directory.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The number of the content that lies at `path`.
fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".img")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_wrote_to_keeps_its_name() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = VolumeDirectory::new(folder.path().to_owned(), RecordWriter::open(folder.path()));
        fs::write(directory.staged(0), "new").expect("written");
        directory.adopt(0).expect("the name is free");
        assert_eq!(fs::read_to_string(directory.content(0)).expect("there"), "new");
        fs::write(directory.staged(0), "newer").expect("written");
        directory.adopt(0).expect("it has its name already");
        assert_eq!(fs::read_to_string(directory.content(0)).expect("there"), "new");
        assert!(!directory.staged(0).exists());
        directory.adopt(0).expect("nothing is staged");
    }
}

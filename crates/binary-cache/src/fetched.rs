//! What is known of the paths that were fetched into a store which Nix does not keep, so that they can be collected again.
//!
//! ```text
//! .procurator-fetched/paths/<name>    how large a path is and what it needs; last written when it was last seen needed
//! ```
//!
//! A record has its name before its path has: no path is without one because a process was killed in between. What lies in a
//! store without a record was brought by somebody else, and is theirs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::fsync;
use vm_model::{Bytes, StoreName};

use crate::narinfo::Narinfo;
use crate::store::{StoreError, directory_error};

/// Where in a store the records lie. Nix and the worker take no such name for a store path.
const DIRECTORY: &str = ".procurator-fetched";
const PATHS: &str = "paths";

/// A path that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchedPath {
    /// The size of its archive.
    pub(crate) size: Bytes,
    /// The paths that it refers to; it may be among them.
    pub(crate) needs: Vec<StoreName>,
    /// When it was last seen needed.
    pub(crate) needed_last: SystemTime,
}

/// The records of one store.
#[derive(Clone, Debug)]
pub(crate) struct FetchedPaths {
    directory: PathBuf,
}

impl FetchedPaths {
    /// Those of the store at `store`. Nothing is made yet.
    pub(crate) fn within(store: &Path) -> Self {
        Self { directory: store.join(DIRECTORY).join(PATHS) }
    }

    /// All of them.
    ///
    /// # Errors
    /// One cannot be read: nobody knows then what its path needs.
    pub(crate) fn read(&self) -> Result<BTreeMap<StoreName, FetchedPath>, StoreError> {
        let failed = |operation| directory_error(operation, &self.directory);
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(failed("list"))?,
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(failed("list"))?;
            let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = entry.path();
            let read = fs::read_to_string(&path).and_then(|text| {
                let needed_last = entry.metadata()?.modified()?;
                let (size, needs) = parse(&text).ok_or(io::ErrorKind::InvalidData)?;
                Ok(FetchedPath { size, needs, needed_last })
            });
            found.insert(name, read.map_err(directory_error("read", &path))?);
        }
        Ok(found)
    }

    /// Writes the record of the path that `narinfo` describes to `file`, from where it is renamed.
    pub(crate) fn write(file: &Path, narinfo: &Narinfo) -> Result<(), StoreError> {
        fs::write(file, text(narinfo)).map_err(directory_error("write", file))
    }

    /// Puts the record that was written to `file` in place, to stay.
    pub(crate) fn publish(&self, file: &Path, name: &StoreName) -> Result<(), StoreError> {
        let failed = |operation| directory_error(operation, &self.directory);
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory).map_err(failed("make"))?;
        fs::rename(file, self.file(name)).map_err(failed("move a record to"))?;
        let directory = File::open(&self.directory).map_err(failed("open"))?;
        fsync(directory).map_err(|errno| failed("write out")(errno.into()))
    }

    /// Notes that `name` is needed `now`.
    pub(crate) fn touch(&self, name: &StoreName, now: SystemTime) {
        let file = self.file(name);
        let touched = File::options().write(true).open(&file).and_then(|file| file.set_modified(now));
        if let Err(error) = touched {
            tracing::warn!(path = %file.display(), %error, "that a fetched path is needed cannot be noted");
        }
    }

    /// Forgets `name`, whose path is gone.
    pub(crate) fn remove(&self, name: &StoreName) -> Result<(), StoreError> {
        let file = self.file(name);
        fs::remove_file(&file).map_err(directory_error("remove", &file))
    }

    fn file(&self, name: &StoreName) -> PathBuf {
        self.directory.join(name.as_str())
    }
}

fn text(narinfo: &Narinfo) -> String {
    let needs: Vec<&str> = narinfo.references.iter().map(StoreName::as_str).collect();
    format!("size: {}\nneeds: {}\n", narinfo.nar_size, needs.join(" "))
}

/// The size and the needs that stand in a record.
fn parse(text: &str) -> Option<(Bytes, Vec<StoreName>)> {
    let (size, needs) = text.strip_suffix('\n')?.split_once('\n')?;
    let size = size.strip_prefix("size: ")?.parse().ok()?;
    let needs = needs.strip_prefix("needs: ")?.split_whitespace().map(|name| name.parse().ok());
    Some((Bytes::new(size), needs.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] =
        ["3n58xw4373jp0ljirf06d8077j15pc4j-vm-image", "6n58xw4373jp0ljirf06d8077j15pc4j-kernel"];

    #[test]
    fn a_record_says_what_a_path_needs_and_half_of_one_nothing() {
        let text = format!("size: 12\nneeds: {} {}\n", NAMES[0], NAMES[1]);
        let (size, needs) = parse(&text).expect("whole");
        assert_eq!((size, needs.len()), (Bytes::new(12), 2));
        assert_eq!(parse("size: 12\nneeds: \n"), Some((Bytes::new(12), Vec::new())));
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_damaged_record_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let records = FetchedPaths::within(place.path());
        assert_eq!(records.read().expect("nothing"), BTreeMap::new());
        fs::create_dir_all(&records.directory).expect("made");
        fs::write(records.directory.join(NAMES[0]), "size: 1\n").expect("written");
        let refused = records.read().expect_err("half a record");
        assert!(refused.to_string().contains(NAMES[0]), "{refused}");
    }
}

//! Versioned JSON files that are either the old or the new whole, whatever happens in between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fail_points::{FailPoint, pass_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

/// Larger files are not read: what we write stays far below.
const MAX_BYTES: u64 = 64 << 20;

/// Why a file was not written. The file that was there still is.
#[derive(Debug, Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why a file was not read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged; {}", path.display(), kept_as(path, kept))]
    Damaged {
        path: PathBuf,
        kept: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{} was written by a newer version of this program (format {found}, at most {known} is known); {}",
        path.display(),
        kept_as(path, kept)
    )]
    Newer { path: PathBuf, kept: PathBuf, found: u32, known: u32 },
}

fn kept_as(path: &Path, kept: &Path) -> String {
    if path == kept {
        "it is left as it is".to_owned()
    } else {
        format!("it was kept aside as {}", kept.display())
    }
}

impl WriteError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), source }
    }

    /// What the host said.
    pub(crate) fn source(&self) -> &io::Error {
        &self.source
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Replaces the file at `path` by `content` marked with `version`; on return it is on stable storage.
pub(crate) fn write_versioned<T: Serialize>(
    path: &Path,
    version: u32,
    content: &T,
) -> Result<(), WriteError> {
    write_json(path, &Versioned { version, content })
}

/// Like [`write_versioned`], for content that has a `version` of its own.
pub(crate) fn write_json<T: Serialize>(path: &Path, content: &T) -> Result<(), WriteError> {
    write_atomically(path, content).map_err(|source| WriteError { path: path.to_owned(), source })
}

fn write_atomically<T: Serialize>(path: &Path, content: &T) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let temporary = unfinished(path);
    let mut bytes = serde_json::to_vec_pretty(content)?;
    bytes.push(b'\n');
    let written = (|| {
        pass_with(FailPoint::FileBegun, name);
        // Assignments may hold secrets: nobody else's to read.
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        pass_with(FailPoint::FileWritten, name);
        file.sync_all()?;
        pass_with(FailPoint::FileSynced, name);
        fs::rename(&temporary, path)?;
        pass_with(FailPoint::FileRenamed, name);
        File::open(directory)?.sync_all()?;
        pass_with(FailPoint::FileReplaced, name);
        Ok(())
    })();
    if written.is_err() {
        // The unfinished copy is of no use; that removing it may fail too changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Where the content of the file at `path` is written before it takes the file's place.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Deletes what a write of the file at `path` that was cut short has left. Nobody may write the file meanwhile. That it
/// cannot be deleted is logged: the next write replaces it.
pub(crate) fn discard_unfinished(path: &Path) {
    let unfinished = unfinished(path);
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => warn!(file = %unfinished.display(), %error, "an unfinished file stays behind"),
    }
}

/// Reads the file at `path` as written by [`write_versioned`] with a version up to `known`; `None` where there is
/// no file.
pub(crate) fn read_versioned<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, ReadError> {
    read(path, known, keep_aside)
}

/// Like [`read_versioned`], and a file that cannot be used stays where it is: for files whose absence would mean something.
pub(crate) fn read_in_place<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, ReadError> {
    read(path, known, |path| Ok(path.to_owned()))
}

fn read<T: DeserializeOwned>(
    path: &Path,
    known: u32,
    keep: impl Fn(&Path) -> Result<PathBuf, ReadError>,
) -> Result<Option<T>, ReadError> {
    let damaged = |source| match keep(path) {
        Ok(kept) => ReadError::Damaged { path: path.to_owned(), kept, source },
        Err(error) => error,
    };
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
    };
    let version = match serde_json::from_slice::<VersionOnly>(&bytes) {
        Ok(header) => header.version,
        Err(source) => return Err(damaged(source)),
    };
    if version > known {
        let kept = keep(path)?;
        return Err(ReadError::Newer { path: path.to_owned(), kept, found: version, known });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {size} bytes, at most {MAX_BYTES} are read"),
        ));
    }
    fs::read(path)
}

/// Moves the file to the first free `<name>.kept-<n>`, so that a fresh one never overwrites it.
pub(crate) fn keep_aside(path: &Path) -> Result<PathBuf, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    for number in 1..10_000_u32 {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".kept-{number}"));
        let kept = PathBuf::from(name);
        match fs::hard_link(path, &kept) {
            Ok(()) => {
                fs::remove_file(path).map_err(failed)?;
                return Ok(kept);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "too many copies were kept aside already")))
}

/// The files that [`keep_aside`] has made of `path`, in their order.
pub(crate) fn kept_files(path: &Path) -> Vec<PathBuf> {
    let Some((directory, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut kept: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let file = entry.file_name();
            let number = file.to_str()?.strip_prefix(name)?.strip_prefix(".kept-")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    kept.sort();
    kept.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Content {
        name: String,
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.json");
        assert_eq!(read_versioned::<Content>(&path, 1).expect("absent is fine"), None);
        for name in ["one", "two"] {
            write_versioned(&path, 1, &Content { name: name.into() }).expect("written");
            assert_eq!(
                read_versioned::<Content>(&path, 1).expect("read"),
                Some(Content { name: name.into() })
            );
        }
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_a_write_that_was_cut_short_left_is_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.json");
        write_versioned(&path, 1, &Content { name: "x".into() }).expect("written");
        fs::write(directory.path().join("a.new"), "{").expect("written");
        for _ in 0..2 {
            discard_unfinished(&path);
            assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "the file itself stays");
        }
    }

    #[test]
    fn damaged_and_newer_files_are_kept_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.json");
        for (text, expected) in
            [("{ not json", "damaged"), (r#"{"version": 9}"#, "newer"), (r#"{"version": 1}"#, "damaged")]
        {
            fs::write(&path, text).expect("written");
            let error = read_versioned::<Content>(&path, 1).expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!path.exists(), "{text:?} is out of the way");
        }
        let kept = fs::read_to_string(directory.path().join("a.json.kept-2")).expect("kept");
        assert_eq!(kept, r#"{"version": 9}"#);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 3);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("missing").join("a.json");
        let error = write_versioned(&path, 1, &Content { name: "x".into() }).expect_err("no directory");
        assert!(error.to_string().ends_with("missing/a.json"), "{error}");
    }
}

//! Writable disks: the store is never written, so a VM gets a copy of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;
use thiserror::Error;

use crate::supervisor::GivenUp;

/// The most that is copied without asking whether anybody still wants it.
const AT_A_TIME: usize = 64 << 20;

/// Why a VM has no copy of a disk.
#[derive(Debug, Error)]
#[error("cannot {operation} the writable disk {}", path.display())]
pub(crate) struct DiskError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The VM's own copy of `image` at `path`, opened for reading and writing; made if it is not there yet.
///
/// A copy appears whole or not at all. It shares blocks with the image where the file system can (reflink), else
/// it is a copy with the image's holes.
pub(crate) fn ensure_writable_copy(image: &File, path: &Path, given_up: &GivenUp) -> Result<File, DiskError> {
    if !path.exists() {
        replace_by_copy(image, path, given_up)?;
    }
    OpenOptions::new().read(true).write(true).open(path).map_err(|source| failed("open", path, source))
}

/// Like [`ensure_writable_copy`], but what was written to an earlier copy is gone.
pub(crate) fn fresh_writable_copy(image: &File, path: &Path, given_up: &GivenUp) -> Result<File, DiskError> {
    replace_by_copy(image, path, given_up)?;
    ensure_writable_copy(image, path, given_up)
}

fn replace_by_copy(image: &File, path: &Path, given_up: &GivenUp) -> Result<(), DiskError> {
    let temporary = path.with_extension("copying");
    let copied = copy_to(image, &temporary, given_up).and_then(|()| fs::rename(&temporary, path));
    if copied.is_err() {
        // Space is what is short most often: give it back.
        let _ = fs::remove_file(&temporary);
    }
    copied.map_err(|source| failed("create", path, source))?;
    let directory = path.parent().unwrap_or(path);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| failed("record", path, source))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError { operation, path: path.to_owned(), source }
}

fn copy_to(image: &File, path: &Path, given_up: &GivenUp) -> io::Result<()> {
    // What a guest writes is nobody else's to read.
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if ioctl_ficlone(&target, image).is_err() {
        copy_data(image, &target, given_up)?;
    }
    target.sync_all()
}

/// Copies what holds data and leaves holes where the image has them.
fn copy_data(image: &File, target: &File, given_up: &GivenUp) -> io::Result<()> {
    let size = image.metadata()?.len();
    ftruncate(target, size)?;
    let mut offset = 0;
    while offset < size {
        let start = match seek(image, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            // The file system cannot tell: all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = seek(image, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        copy_range(image, target, start, end, given_up)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(image: &File, target: &File, start: u64, end: u64, given_up: &GivenUp) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        go_on(given_up)?;
        let want = usize::try_from(end - from).unwrap_or(usize::MAX).min(AT_A_TIME);
        match copy_file_range(image.as_fd(), Some(&mut from), target.as_fd(), Some(&mut to), want) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the image shrank while it was copied",
                ));
            }
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(image, target, from, end, given_up);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(
    image: &File,
    target: &File,
    start: u64,
    end: u64,
    given_up: &GivenUp,
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = start;
    while offset < end {
        go_on(given_up)?;
        let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        image.read_exact_at(&mut buffer[..want], offset)?;
        target.write_all_at(&buffer[..want], offset)?;
        offset += want as u64;
    }
    Ok(())
}

fn go_on(given_up: &GivenUp) -> io::Result<()> {
    match given_up.flow() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(io::Error::new(io::ErrorKind::Interrupted, "the copy was given up")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn sparse_image(directory: &Path) -> File {
        let image = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.join("image"))
            .expect("created");
        image.set_len(8 << 20).expect("sized");
        image.write_all_at(b"head", 0).expect("written");
        image.write_all_at(b"tail", (4 << 20) + 5).expect("written");
        image
    }

    #[test]
    fn a_copy_has_the_content_and_the_holes_of_its_image() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = sparse_image(directory.path());
        let path = directory.path().join("disk0.img");
        let copy = ensure_writable_copy(&image, &path, &GivenUp::default()).expect("copied");
        assert_eq!(fs::read(&path).expect("read"), fs::read(directory.path().join("image")).expect("read"));
        assert!(copy.metadata().expect("stat").blocks() * 512 < 1 << 20, "holes stay holes");
    }

    #[test]
    fn a_copy_that_exists_is_kept_with_what_the_guest_wrote() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = sparse_image(directory.path());
        let path = directory.path().join("disk0.img");
        ensure_writable_copy(&image, &path, &GivenUp::default())
            .expect("copied")
            .write_all_at(b"mine", 0)
            .expect("written");
        ensure_writable_copy(&image, &path, &GivenUp::default()).expect("opened");
        assert_eq!(&fs::read(&path).expect("read")[..4], b"mine");
    }

    #[test]
    fn a_copy_that_fails_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = sparse_image(directory.path());
        let path = directory.path().join("missing").join("disk0.img");
        let error = ensure_writable_copy(&image, &path, &GivenUp::default()).expect_err("no directory");
        assert!(error.to_string().starts_with("cannot create the writable disk"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (image, given_up) = (sparse_image(directory.path()), GivenUp::default());
        given_up.set();
        let copied = File::create(directory.path().join("copy")).expect("created");
        let error = copy_data(&image, &copied, &given_up).expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        let error = copy_through_memory(&image, &copied, 0, 5, &given_up).expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn copying_through_memory_gives_the_same_bytes() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = sparse_image(directory.path());
        let target = File::create(directory.path().join("copy")).expect("created");
        copy_through_memory(&image, &target, 0, 8 << 20, &GivenUp::default()).expect("copied");
        assert_eq!(
            fs::read(directory.path().join("copy")).expect("read"),
            fs::read(directory.path().join("image")).expect("read")
        );
    }
}

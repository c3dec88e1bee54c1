//! Making the content of a volume: the store is never written, so a VM gets a copy of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, fstatvfs, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;
use thiserror::Error;
use vm_model::Bytes;

use super::directory::remove_file;
use crate::supervisor::GivenUp;

/// The most that is copied without asking whether anybody still wants it.
const AT_A_TIME: usize = 64 << 20;

/// Why the file of a volume was not made or used.
#[derive(Debug, Error)]
#[error("cannot {operation} the volume {}", path.display())]
pub(crate) struct DiskError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

/// Makes the file `path` with the content of `image`, or blank, and at least `size` bytes; a file that lies there loses its
/// name. On return it is on stable storage; a failure leaves no file.
///
/// It shares blocks with the image where the file system can (reflink), else it is a copy with the image's holes.
pub(super) fn make_file(
    image: Option<&File>,
    size: u64,
    path: &Path,
    given_up: &GivenUp,
) -> Result<File, DiskError> {
    let create = |source| failed("create", path, source);
    let target = create_anew(path).map_err(create)?;
    match fill(&target, image, size, given_up) {
        Ok(()) => Ok(target),
        Err(source) => {
            // Space is what is short most often: give it back. What another start has put there meanwhile stays.
            if is_at(&target, path) {
                let _ = fs::remove_file(path);
            }
            Err(create(source))
        }
    }
}

/// What making a content costs.
#[cfg(feature = "benchmarks")]
pub(crate) fn make_content(
    image: Option<&File>,
    size: u64,
    path: &Path,
    given_up: &GivenUp,
) -> Result<(), DiskError> {
    make_file(image, size, path, given_up).map(drop)
}

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError { operation, path: path.to_owned(), source }
}

/// A new file at `path`; one that lies there loses its name.
pub(super) fn create_anew(path: &Path) -> io::Result<File> {
    remove_file(path)?;
    // What a guest writes is nobody else's to read.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whether `file` is what lies at `path`. While it is open, no other file can be taken for it.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: &fs::Metadata| (found.dev(), found.ino());
    let there = path.symlink_metadata().map(|found| identity(&found));
    file.metadata().is_ok_and(|own| there.is_ok_and(|there| there == identity(&own)))
}

fn fill(target: &File, image: Option<&File>, size: u64, given_up: &GivenUp) -> io::Result<()> {
    if let Some(image) = image
        && ioctl_ficlone(target, image).is_err()
    {
        check_space(image, target)?;
        copy_data(image, target, given_up)?;
    }
    complete(target, size)
}

/// Gives `target`, which has its content, at least `size` bytes, and brings it to stable storage.
pub(super) fn complete(target: &File, size: u64) -> io::Result<()> {
    if target.metadata()?.len() < size {
        target.set_len(size)?;
    }
    target.sync_all()
}

/// Makes sure that the data of `image` fits where `target` lies: a copy that fills the disk before it fails would make every
/// guest wait that writes to the same disk.
pub(super) fn check_space(image: &File, target: &File) -> io::Result<()> {
    let found = image.metadata()?;
    let (needed, disk) = (found.blocks().saturating_mul(512).min(found.len()), fstatvfs(target)?);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let (needed, free) = (Bytes::new(needed), Bytes::new(free));
    let problem = format!("No space left on device: the copy needs {needed}, and {free} are free");
    Err(io::Error::new(io::ErrorKind::StorageFull, problem))
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
    use std::os::unix::fs::FileExt;

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
        let path = directory.path().join("0.img");
        make_file(Some(&image), 16 << 20, &path, &GivenUp::default()).expect("copied");
        let (copy, original) = (fs::read(&path).expect("read"), fs::read(directory.path().join("image")));
        assert_eq!(copy[..8 << 20], original.expect("read"));
        assert_eq!(copy.len(), 16 << 20, "it is as large as was asked for");
        assert!(fs::metadata(&path).expect("stat").blocks() * 512 < 1 << 20, "holes stay holes");
    }

    #[test]
    fn a_copy_that_fails_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = sparse_image(directory.path());
        let path = directory.path().join("missing").join("0.img");
        let error = make_file(Some(&image), 0, &path, &GivenUp::default()).expect_err("no directory");
        assert!(error.to_string().starts_with("cannot create the volume"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_told_from_one_that_was_made_in_its_place() {
        let directory = tempfile::tempdir().expect("a directory");
        let (image, path) = (sparse_image(directory.path()), directory.path().join("0.staged"));
        let own = create_anew(&path).expect("created");
        assert!(is_at(&own, &path));
        make_file(Some(&image), 0, &path, &GivenUp::default()).expect("another one");
        assert!(!is_at(&own, &path) && path.exists());
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

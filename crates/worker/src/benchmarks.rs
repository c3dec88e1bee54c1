//! What benchmarks time of this crate's inside, and no more.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::supervisor::GivenUp;
use crate::{records, volumes};

/// Copies the disk `image` to `path`, as for a VM that may write to it; a copy that is there is replaced.
///
/// # Errors
/// The file system refuses.
pub fn copy_disk(image: &File, path: &Path) -> io::Result<()> {
    volumes::make_content(Some(image), 0, path, &GivenUp::default()).map_err(io::Error::other)
}

/// Replaces the record at `path` by one that holds `content`.
///
/// # Errors
/// The file system refuses.
pub fn write_record(path: &Path, content: &str) -> io::Result<()> {
    #[derive(Serialize)]
    struct Record<'a> {
        content: &'a str,
    }
    records::write_versioned(path, 1, &Record { content }).map_err(io::Error::other)
}

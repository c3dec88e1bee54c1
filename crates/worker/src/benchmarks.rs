//! What benchmarks time of this crate's inside, and no more.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Serialize;
use vm_model::{Assignment, VmId};

use crate::records::{RecordStore, RecordWriter, VmRecord};
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

/// Writes the records of `count` VMs below `state_dir`.
///
/// # Errors
/// The file system refuses.
pub fn write_vm_records(state_dir: &Path, count: usize) -> io::Result<()> {
    let store = record_store(state_dir)?;
    for number in 0..count {
        let hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let id = VmId::new(&format!("vm-{number}"));
        store
            .save(&VmRecord::new(Assignment::new(id, hash, "/nix/store/guest")))
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Loads the records of all VMs below `state_dir`, and answers how many can be used.
///
/// # Errors
/// The file system refuses.
pub fn load_vm_records(state_dir: &Path) -> io::Result<usize> {
    let found = record_store(state_dir)?.load_all().map_err(io::Error::other)?;
    Ok(found.iter().filter(|(_, record)| record.is_ok()).count())
}

fn record_store(state_dir: &Path) -> io::Result<RecordStore> {
    records::make_private(state_dir)?;
    RecordStore::open(&state_dir.join("vms"), RecordWriter::open(state_dir)).map_err(io::Error::other)
}

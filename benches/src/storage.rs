//! What the worker does with files before a machine is created, and after every change of a VM: hashing, copying a
//! disk, writing a record.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nix_artifacts::{StoreRoots, hash_store_path};

/// Bytes of the image that is hashed and copied.
pub(crate) const SIZE: usize = 64 << 20;

/// A store with one image in it.
pub(crate) struct Storage {
    folder: PathBuf,
    roots: StoreRoots,
    store_path: PathBuf,
    disk: PathBuf,
}

impl Storage {
    /// Makes the image below `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let store = folder.join("store");
        let store_path = store.join("image");
        let disk = store_path.join("disk.img");
        fs::create_dir_all(&store_path).context("cannot make the store")?;
        // No zeroes: neither the copy nor the file system is to take a short cut.
        let content: Vec<u8> = (0..=250_u8).cycle().take(SIZE).collect();
        fs::write(&disk, content).with_context(|| format!("cannot write {}", disk.display()))?;
        File::open(&disk)?.sync_all()?;
        Ok(Self { folder: folder.to_owned(), roots: StoreRoots::open(&[store])?, store_path, disk })
    }

    /// Hashes the image as its verification does.
    pub(crate) fn hash(&self) -> Result<Vec<u64>> {
        timed(|| {
            hash_store_path(&self.roots, &self.store_path, &mut |_| ControlFlow::Continue(()))?;
            Ok(())
        })
    }

    /// Copies the disk as a VM that may write to it gets it.
    pub(crate) fn copy_disk(&self) -> Result<Vec<u64>> {
        let image = File::open(&self.disk)?;
        timed(|| Ok(worker::benchmarks::copy_disk(&image, &self.folder.join("disk0.img"))?))
    }

    /// Loads the records of `count` VMs, which are written before.
    pub(crate) fn load_records(&self, count: usize) -> Result<Vec<u64>> {
        let state = self.folder.join(format!("records-{count}"));
        worker::benchmarks::write_vm_records(&state, count)?;
        timed(|| {
            let loaded = worker::benchmarks::load_vm_records(&state)?;
            anyhow::ensure!(loaded == count, "{loaded} records of {count} were loaded");
            Ok(())
        })
    }

    /// Writes a record.
    pub(crate) fn write_record(&self) -> Result<Vec<u64>> {
        let content = "x".repeat(1024);
        timed(|| Ok(worker::benchmarks::write_record(&self.folder.join("record.json"), &content)?))
    }
}

fn timed(body: impl FnOnce() -> Result<()>) -> Result<Vec<u64>> {
    let begun = Instant::now();
    body()?;
    Ok(vec![u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)])
}

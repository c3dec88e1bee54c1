//! The first start from an image as far as its files go: verified and copied in one read, beside what `sha256sum` and
//! `cp --sparse=always` take for the same image.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Every eighth piece of this size holds data.
const PIECE: u64 = 1 << 20;
const DATA_IN: u64 = 8;

/// Times in nanoseconds for an image of `mebibytes`, made below `folder`: verified and copied by us, hashed by `sha256sum`,
/// copied by `cp` and brought to stable storage like ours. Then the bytes that image, our copy and that of `cp` take.
pub(crate) fn measure(folder: &Path, mebibytes: usize) -> Result<Vec<u64>> {
    let folder = tempfile::tempdir_in(folder).context("cannot make a folder")?;
    let store = folder.path().join("store");
    let image = make_image(&store, u64::try_from(mebibytes)? << 20)?;
    let start =
        worker::benchmarks::FirstStart::new(&store, "image", "disk.img", &folder.path().join("state"))?;
    let own = timed(|| Ok(start.verify_and_copy()?))?;
    let hashed = timed(|| run(Command::new("sha256sum").arg(&image)))?;
    let copy = folder.path().join("copy.img");
    let copied = timed(|| {
        run(Command::new("cp").arg("--sparse=always").arg(&image).arg(&copy))?;
        Ok(File::open(&copy)?.sync_all()?)
    })?;
    let taken = |path: &Path| -> Result<u64> { Ok(fs::metadata(path)?.blocks() * 512) };
    Ok(vec![own, hashed, copied, taken(&image)?, taken(&start.copy())?, taken(&copy)?])
}

fn make_image(store: &Path, size: u64) -> Result<std::path::PathBuf> {
    let directory = store.join("image");
    fs::create_dir_all(&directory).context("cannot make the store")?;
    let path = directory.join("disk.img");
    let image = File::create(&path).context("cannot make the image")?;
    image.set_len(size)?;
    let data: Vec<u8> = (0..=250_u8).cycle().take(usize::try_from(PIECE)?).collect();
    for offset in (0..size).step_by(usize::try_from(PIECE * DATA_IN)?) {
        image.write_all_at(&data, offset)?;
    }
    image.sync_all()?;
    Ok(path)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn timed(body: impl FnOnce() -> Result<()>) -> Result<u64> {
    let begun = Instant::now();
    body()?;
    Ok(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

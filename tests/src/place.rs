//! Where a worker keeps its files: it may be started there again, and parts of it may have little space.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::assignment::file_of;

/// The directories and files of one worker. It all goes when this value does.
#[derive(Debug)]
pub struct Place {
    // Fields are dropped in order: what is mounted goes before the directory it is mounted in.
    small: Vec<SmallFileSystem>,
    folder: TempDir,
    /// The state directory where it is not in the folder.
    state: Option<PathBuf>,
}

impl Place {
    /// An empty one, with `settings` as the configuration file and nothing to do.
    ///
    /// # Errors
    /// The host has no room for it.
    pub fn new(settings: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("procurator-")
            .tempdir()
            .context("cannot create a directory for the worker")?;
        let place = Self { small: Vec::new(), folder, state: None };
        write_atomically(&place.assignments(), &file_of(&[]))?;
        fs::write(place.configuration(), settings).context("cannot write its configuration")?;
        for directory in [place.state(), place.log_directory(), place.images()] {
            fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(place)
    }

    /// With a file system of its own for the state directory, of `bytes`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn with_small_state(mut self, bytes: u64) -> Result<Self> {
        self.small.push(SmallFileSystem::mount(&self.state(), bytes)?);
        Ok(self)
    }

    /// With its state directory elsewhere, where it outlives this value. It is created if it is not there.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn with_state_at(mut self, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        self.state = Some(directory.to_path_buf());
        Ok(self)
    }

    /// With a file system of its own for the log, of `bytes`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn with_small_log(mut self, bytes: u64) -> Result<Self> {
        self.small.push(SmallFileSystem::mount(&self.log_directory(), bytes)?);
        Ok(self)
    }

    /// Leaves no space for another line of the log, until what is returned is dropped.
    ///
    /// # Errors
    /// There is no small file system for it, or it cannot be filled.
    pub fn fill_log(&self) -> Result<Filler> {
        ensure!(
            self.small.iter().any(|small| small.0 == self.log_directory()),
            "the log has no small file system"
        );
        let filler = Filler::fill(&self.log_directory())?;
        // The last page that the log has already is still its own.
        let log = File::options().append(true).open(self.log()).context("cannot open the log")?;
        write_until_full(log, b"\n").context("cannot fill the log")?;
        Ok(filler)
    }

    /// Takes the file of assignments away.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_assignments(&self) -> Result<()> {
        let path = self.assignments();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| self.folder.path().join("state"))
    }

    /// A store root of its own, for images that a test makes.
    pub fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// Where the log lies.
    fn log_directory(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The file with everything that a worker here has logged.
    pub(crate) fn log(&self) -> PathBuf {
        self.log_directory().join("worker.log")
    }

    pub(crate) fn assignments(&self) -> PathBuf {
        self.folder.path().join("assignments.json")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.folder.path().join("worker.toml")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

/// A file system in memory, as long as this value is there.
#[derive(Debug)]
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(directory: &Path, bytes: u64) -> Result<Self> {
        let size = format!("size={bytes}");
        let words: [&OsStr; 6] = [
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "-o".as_ref(),
            size.as_ref(),
            "none".as_ref(),
            directory.as_ref(),
        ];
        let output = Command::new("busybox")
            .arg("mount")
            .args(words)
            .output()
            .context("cannot start busybox mount")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot mount {}: {}", directory.display(), errors.trim());
        Ok(Self(directory.to_path_buf()))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // What is open still keeps it, and nobody else sees it any more.
        let unmounted = Command::new("busybox").args(["umount", "-l"]).arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("{} is still mounted", self.0.display());
        }
    }
}

/// Takes up all that is left of a file system, until it is dropped.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// Fills the file system at `directory`.
    ///
    /// # Errors
    /// It cannot be filled.
    pub fn fill(directory: &Path) -> Result<Self> {
        let filler = Self(directory.join("filler"));
        let file =
            File::create(&filler.0).with_context(|| format!("cannot create {}", filler.0.display()))?;
        write_until_full(file, &[1; 64 << 10])
            .with_context(|| format!("cannot fill {}", directory.display()))?;
        Ok(filler)
    }
}

/// Writes `piece` again and again. A last one that does not fit is cut short.
fn write_until_full(mut file: File, piece: &[u8]) -> io::Result<()> {
    loop {
        match file.write(piece) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            println!("{} is still there: {error}", self.0.display());
        }
    }
}

/// A reader sees the old content or the new one.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))
}

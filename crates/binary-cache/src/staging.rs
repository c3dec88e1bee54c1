//! Where paths lie before they are whole: one directory a store, shared by all processes that fetch into it.
//!
//! ```text
//! .procurator-fetch/          locked for moments by whoever adds to it or removes from it
//!   <random>/                 what one fetch unpacks, or one collection deletes; locked for as long as that runs
//!   <random>/needs            the paths of the store that the fetch relies on
//!   partial/<archive>         the beginning of an archive whose download was cut short ([`super::partial`])
//! ```
//!
//! A lock goes with its process: what nobody holds was left behind, and is swept.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use uuid::Uuid;
use vm_model::StoreName;

use crate::store::{StoreError, directory_error};

/// Its name. Nix and the worker take no such name for a store path.
const NAME: &str = ".procurator-fetch";
/// Where in it the beginnings of archives lie.
const PARTIAL: &str = "partial";
/// The file in which a fetch says what it relies on. No store path has such a name.
const NEEDS: &str = "needs";

/// The directory of one store.
#[derive(Clone, Debug)]
pub(crate) struct StagingRoot(PathBuf);

/// The directory, locked.
pub(crate) struct Entered {
    root: StagingRoot,
    /// Holds the lock until it is dropped.
    _directory: File,
}

impl Entered {
    /// What the fetches that are under way rely on.
    pub(crate) fn relied_on(&self) -> Result<Vec<StoreName>, StoreError> {
        let path = &self.root.0;
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(directory_error("list", path))?.flatten() {
            let file = entry.path().join(NEEDS);
            match fs::read_to_string(&file) {
                Ok(text) => names.extend(text.lines().filter_map(|line| line.parse::<StoreName>().ok())),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(directory_error("read", &file)(error)),
            }
        }
        Ok(names)
    }
}

impl StagingRoot {
    /// The one in `place`. Nothing is made yet.
    pub(crate) fn within(place: &Path) -> Self {
        Self(place.join(NAME))
    }

    /// A place for what is not whole yet. Removed with what is in it when dropped.
    pub(crate) fn stage(&self) -> Result<Staging, StoreError> {
        let _entered = self.enter()?;
        let path = self.0.join(Uuid::new_v4().simple().to_string());
        let failed = |operation| directory_error(operation, &path);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed("make"))?;
        let directory = File::open(&path).map_err(failed("open"))?;
        try_lock(&directory).map_err(|errno| failed("lock")(errno.into()))?;
        Ok(Staging { path, directory: directory.into(), root: self.clone() })
    }

    /// The file of the archive's beginning that is called `name`, made where there is none; `None` while another fetch has
    /// it.
    pub(crate) fn partial(&self, name: &str) -> Result<Option<(PathBuf, File)>, StoreError> {
        let _entered = self.enter()?;
        let directory = self.0.join(PARTIAL);
        make(&directory)?;
        let path = directory.join(name);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(directory_error("open", &path))?;
        match try_lock(&file) {
            Ok(()) => Ok(Some((path, file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(directory_error("lock", &path)(errno.into())),
        }
    }

    /// Removes what nobody holds: the rests of fetches, and beginnings of archives that nobody has asked for since
    /// `partial_age`.
    pub(crate) fn sweep(&self, partial_age: Duration) {
        let Ok(Some(entered)) = self.enter_existing() else { return };
        let rests: Vec<(PathBuf, File)> =
            unheld(&self.0).filter(|(path, _)| !path.ends_with(PARTIAL)).collect();
        for (path, file) in unheld(&self.0.join(PARTIAL)) {
            if is_older(&file, partial_age) {
                report(&path, fs::remove_file(&path));
            }
        }
        // Each is held now, and may take long to remove.
        drop(entered);
        for (path, _held) in rests {
            report(&path, fs::remove_dir_all(&path));
        }
        self.tidy();
    }

    /// Removes the directories that are empty.
    fn tidy(&self) {
        if let Ok(Some(_entered)) = self.enter_existing() {
            // Refused where something is in them.
            let _ = fs::remove_dir(self.0.join(PARTIAL));
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// Waits until nobody holds the lock who holds it now.
    pub(crate) fn settle(&self) {
        if let Err(error) = self.enter_existing() {
            tracing::warn!(
                error = vm_model::error_chain(&error),
                "whether something is being collected is not known"
            );
        }
    }

    /// Locks it, and makes it where it is not there.
    pub(crate) fn enter(&self) -> Result<Entered, StoreError> {
        loop {
            make(&self.0)?;
            if let Some(entered) = self.enter_existing()? {
                return Ok(entered);
            }
        }
    }

    /// `None` where it is not there.
    fn enter_existing(&self) -> Result<Option<Entered>, StoreError> {
        let failed = |operation| directory_error(operation, &self.0);
        let directory = match File::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.map_err(failed("open"))?,
        };
        retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive))
            .map_err(|errno| failed("lock")(errno.into()))?;
        // Whoever held it before may have removed it, and another may have made it again.
        let own = directory.metadata().map_err(failed("look at"))?;
        let is_same = fs::metadata(&self.0).is_ok_and(|now| (now.dev(), now.ino()) == (own.dev(), own.ino()));
        Ok(is_same.then(|| Entered { root: self.clone(), _directory: directory }))
    }
}

/// Where something is unpacked. Locked, so that nobody removes it before its process is gone.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    directory: OwnedFd,
    root: StagingRoot,
}

impl Staging {
    /// The file that `name` is kept in as an archive.
    pub(crate) fn archive(&self, name: &StoreName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Makes the file that `name` is kept in as an archive.
    pub(crate) fn create(&self, name: &StoreName) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(self.archive(name))
    }

    /// Notes that what is fetched here relies on `names` from now on, for whoever collects. Belongs under the lock.
    pub(crate) fn rely_on(&self, names: &[StoreName], _entered: &Entered) -> Result<(), StoreError> {
        let file = self.path.join(NEEDS);
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        let noted = File::options().create(true).append(true).open(&file);
        noted.and_then(|mut noted| noted.write_all(text.as_bytes())).map_err(directory_error("write", &file))
    }

    /// The file that the record of `name` is written to.
    pub(crate) fn record(&self, name: &StoreName) -> PathBuf {
        self.path.join(format!(".{name}.record"))
    }

    /// Removes what an earlier attempt at `name` left.
    pub(crate) fn clear(&self, name: &StoreName) -> Result<(), StoreError> {
        let path = self.archive(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(_) => Ok(()),
        };
        removed.map_err(directory_error("remove", &path))
    }
}

impl AsFd for Staging {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        report(&self.path, fs::remove_dir_all(&self.path));
        self.root.tidy();
    }
}

fn make(directory: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(directory_error("make", directory)),
    }
}

/// What lies in `directory` and nobody holds; it is held as long as what is answered.
fn unheld(directory: &Path) -> impl Iterator<Item = (PathBuf, File)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let file = File::open(entry.path()).ok()?;
        try_lock(&file).ok().map(|()| (entry.path(), file))
    })
}

fn try_lock(file: &File) -> Result<(), Errno> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Whether nothing was written to `file` since `age`. A clock that was set back makes nothing old.
fn is_older(file: &File, age: Duration) -> bool {
    let written = file.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|since| since >= age))
}

fn report(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "what was not fetched whole cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_a_dead_fetch_left_is_swept_and_what_is_held_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let root = StagingRoot::within(place.path());
        let held = root.stage().expect("staged");
        fs::create_dir_all(root.0.join("dead/x")).expect("made");
        root.sweep(DAY);
        assert!(held.path.exists() && !root.0.join("dead").exists());
        drop(held);
        assert!(!root.0.exists());
    }

    #[test]
    fn beginnings_go_when_they_are_old_and_nobody_has_them() {
        let place = tempfile::tempdir().expect("a directory");
        let root = StagingRoot::within(place.path());
        let (path, file) = root.partial("a").expect("opened").expect("ours");
        assert!(root.partial("a").expect("opened").is_none(), "one at a time");
        root.sweep(Duration::ZERO);
        assert!(path.exists(), "it is held");
        drop(file);
        root.sweep(DAY);
        assert!(path.exists(), "it is young");
        root.sweep(Duration::ZERO);
        assert!(!root.0.exists());
    }

    #[test]
    fn no_sweep_takes_what_is_just_being_made() {
        let place = tempfile::tempdir().expect("a directory");
        let root = StagingRoot::within(place.path());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        root.sweep(Duration::ZERO);
                    }
                });
            }
            let staged: Vec<bool> = (0..500)
                .map(|_| {
                    let staging = root.stage();
                    staging.is_ok_and(|staging| staging.path.is_dir())
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(staged.iter().all(|is_there| *is_there));
        });
    }
}

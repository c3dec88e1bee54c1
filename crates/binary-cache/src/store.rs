//! The store that paths are put into: a directory, which on hosts with Nix is kept by Nix ([`super::nix_import`]).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fstatvfs, fsync, openat, renameat_with, statat, syncfs,
};
use rustix::io::Errno;
use thiserror::Error;
use vm_model::{Bytes, StoreName};

use crate::fetched::FetchedPaths;
use crate::narinfo::Narinfo;
use crate::nix_import::import;
use crate::partial::Partial;
use crate::staging::{Entered, Staging, StagingRoot};

/// How long the beginning of an archive is kept whose download was cut short and that nobody asks for again.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The program of Nix that keeps its store.
const NIX_STORE: &str = "nix-store";
/// How many paths are asked about at once: a command line has an end.
const ASKED_AT_ONCE: usize = 1000;

/// Why a store cannot take a path.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Something about its directory went wrong.
    #[error("cannot {operation} {path:?}")]
    Directory {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nix keeps it, and its program cannot be run.
    #[error("Nix keeps this store, and {NIX_STORE:?} cannot be run")]
    NixProgram(#[source] io::Error),
    /// Nix refuses.
    #[error("Nix keeps this store, and refuses: {said}")]
    NixRefuses {
        /// What it wrote, shortened.
        said: String,
    },
}

/// A store that paths can be put into.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
    is_kept_by_nix: bool,
}

impl Store {
    /// The store at `path`, usually `/nix/store`, which is made where nothing is. Nix keeps it where its database lies
    /// beside it. What a fetch left there whose process is gone is removed.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |operation| directory_error(operation, path);
        DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed("open")(errno.into()))?;
        let database = path.parent().map(|parent| parent.join("var/nix/db/db.sqlite"));
        let is_kept_by_nix = database.is_some_and(|database| database.exists());
        let store = Self { path: path.to_owned(), directory, is_kept_by_nix };
        store.staging().sweep(PARTIAL_AGE);
        Ok(store)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether Nix keeps it.
    pub fn is_kept_by_nix(&self) -> bool {
        self.is_kept_by_nix
    }

    /// Which of `names` it does not have, for the fetch that unpacks in `staging`: none of them is collected while that is there.
    pub(crate) fn missing(
        &self,
        names: Vec<StoreName>,
        staging: &Staging,
    ) -> Result<Vec<StoreName>, StoreError> {
        if self.is_kept_by_nix {
            return self.invalid(&names);
        }
        let entered = self.lock()?;
        staging.rely_on(&names, &entered)?;
        self.absent(names)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Keeps others from collecting and from beginning to rely on something, for moments.
    pub(crate) fn lock(&self) -> Result<Entered, StoreError> {
        self.staging().enter()
    }

    /// Which of `names` do not lie in its directory.
    pub(crate) fn absent(&self, names: Vec<StoreName>) -> Result<Vec<StoreName>, StoreError> {
        let mut absent = Vec::new();
        for name in names {
            match statat(&self.directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => absent.push(name),
                Err(errno) => {
                    return Err(directory_error("look at", &self.path.join(name.as_str()))(errno.into()));
                }
            }
        }
        Ok(absent)
    }

    /// A file that Nix does not know may be the rest of something that was cut short.
    fn invalid(&self, names: &[StoreName]) -> Result<Vec<StoreName>, StoreError> {
        let mut invalid = Vec::new();
        for names in names.chunks(ASKED_AT_ONCE) {
            let mut command = nix_store(&self.path);
            command.args(["--check-validity", "--print-invalid"]).stdin(Stdio::null());
            command.args(names.iter().map(|name| self.path.join(name.as_str())));
            let output = command.output().map_err(StoreError::NixProgram)?;
            if !output.status.success() {
                return Err(StoreError::NixRefuses { said: shortened(&output.stderr) });
            }
            let printed = String::from_utf8_lossy(&output.stdout);
            let last = |line: &str| line.rsplit('/').next().and_then(|name| name.parse().ok());
            invalid.extend(printed.lines().filter_map(last));
        }
        Ok(invalid)
    }

    /// Where what is not whole yet lies: on the file system of the store, from where it can be renamed into it. Not in a store
    /// that Nix keeps, which collects what it does not know; that one is filled by Nix.
    fn staging(&self) -> StagingRoot {
        let place = if self.is_kept_by_nix { self.path.parent() } else { None };
        StagingRoot::within(place.unwrap_or(&self.path))
    }

    /// How much can be written to it.
    pub(crate) fn free(&self) -> Result<Bytes, StoreError> {
        let filled = fstatvfs(&self.directory)
            .map_err(|errno| directory_error("look at", &self.path)(errno.into()))?;
        Ok(Bytes::new(filled.f_bavail.saturating_mul(filled.f_frsize)))
    }

    /// A place for what is not whole yet. Removed with what is in it when dropped.
    pub(crate) fn stage(&self) -> Result<Staging, StoreError> {
        self.staging().stage()
    }

    /// What came of an archive in an earlier attempt, or room for it; `None` where another fetch downloads the same, or
    /// nothing can be kept.
    pub(crate) fn partial(&self, narinfo: &Narinfo, url: &str) -> Option<Partial> {
        let opened = Partial::open(&self.staging(), narinfo, url);
        opened.unwrap_or_else(|error| {
            tracing::warn!(name = %narinfo.name, error = vm_model::error_chain(&error), "a download that is cut short will begin anew");
            None
        })
    }

    /// Gives the space back that beginnings of archives take which nobody downloads now.
    pub(crate) fn drop_partials(&self) {
        self.staging().sweep(Duration::ZERO);
    }

    /// Puts what lies in `staging` of the path that `narinfo` describes to its place. One that is there already stays.
    pub(crate) fn publish(&self, staging: &Staging, narinfo: &Narinfo) -> Result<(), StoreError> {
        let name = &narinfo.name;
        if self.is_kept_by_nix {
            let archive = staging.archive(name);
            import(&self.path, &archive, narinfo)?;
            return fs::remove_file(&archive).map_err(directory_error("remove", &archive));
        }
        let path = self.path.join(name.as_str());
        let failed = |operation| move |errno: Errno| directory_error(operation, &path)(errno.into());
        let record = staging.record(name);
        FetchedPaths::write(&record, narinfo)?;
        // All of it is on disk before it has its name.
        syncfs(staging).map_err(failed.clone()("write out"))?;
        let _entered = self.lock()?;
        if self.absent(vec![name.clone()])?.is_empty() {
            return Ok(());
        }
        FetchedPaths::within(&self.path).publish(&record, name)?;
        let moved =
            renameat_with(staging, name.as_str(), &self.directory, name.as_str(), RenameFlags::NOREPLACE);
        match moved {
            Ok(()) => fsync(&self.directory).map_err(failed("write out")),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("move what was fetched to")(errno)),
        }
    }
}

/// Nix's program for the store at `store`, whose database lies beside it.
pub(crate) fn nix_store(store: &Path) -> Command {
    let mut command = Command::new(NIX_STORE);
    let beside = store.parent().unwrap_or(store).join("var/nix");
    command.env("NIX_STORE_DIR", store).env("NIX_STATE_DIR", beside);
    command
}

/// A fault of `path` while it was tried to `operation` it.
pub(crate) fn directory_error(
    operation: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> StoreError + Clone + use<> {
    let path = path.to_owned();
    move |source| StoreError::Directory { operation, path: path.clone(), source }
}

/// What a program said, for a message.
pub(crate) fn shortened(said: &[u8]) -> String {
    const LONGEST: usize = 400;
    let said = String::from_utf8_lossy(said);
    said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_nix_lacks_what_does_not_lie_there() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Store::open(&place.path().join("store")).expect("opened");
        let name: StoreName = "3n58xw4373jp0ljirf06d8077j15pc4j-vm-image".parse().expect("a name");
        let staging = store.stage().expect("staged");
        let missing = |name: &StoreName| store.missing(vec![name.clone()], &staging).expect("looked");
        assert_eq!(missing(&name), std::slice::from_ref(&name));
        fs::create_dir(store.path().join(name.as_str())).expect("made");
        assert_eq!(missing(&name), []);
    }
}

//! The directories below which files may be opened, each opened once.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use vm_model::FileIdentity;

use super::identity::identify;
use super::open::{describe, open_component};
use super::path::Naming;
use super::{RootError, StorePathError};

/// Where Nix keeps its store unless told otherwise.
const NIX_STORE: &str = "/nix/store";

/// The configured store roots, held open: a root that is renamed or mounted over later changes nothing.
#[derive(Debug)]
pub struct StoreRoots {
    roots: Vec<Root>,
}

/// One root.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    directory: OwnedFd,
    naming: Naming,
}

/// A store path that was found below a root.
#[derive(Debug)]
pub(crate) struct StorePathHandle {
    /// Index of the root.
    pub(crate) root: usize,
    /// Its component below the root.
    pub(crate) name: PathBuf,
    /// The whole path, in its plainest spelling.
    pub(crate) path: PathBuf,
    /// The path itself, opened without reading rights.
    pub(crate) descriptor: OwnedFd,
}

impl StoreRoots {
    /// Opens every root in `paths`; usually that is `/nix/store` alone. Below none of them nothing can be opened.
    ///
    /// Below `/nix/store` only names as Nix makes them are accepted; other roots may have been filled by hand,
    /// so any plain name will do there.
    ///
    /// # Errors
    /// Names the root that is no absolute path or cannot be opened.
    pub fn open(paths: &[PathBuf]) -> Result<Self, RootError> {
        let roots = paths.iter().map(|path| Root::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// The identity of a store path itself; that of a directory does not cover what lies in it.
    ///
    /// # Errors
    /// If `store_path` is not a path directly below a root, or does not exist.
    pub fn identify(&self, store_path: &Path) -> Result<FileIdentity, StorePathError> {
        let handle = self.find(store_path)?;
        identify(&handle.descriptor).map_err(|source| StorePathError::Open { path: handle.path, source })
    }

    /// The roots, for messages.
    pub(crate) fn list(&self) -> String {
        if self.roots.is_empty() {
            return "a store root, of which none is configured".to_owned();
        }
        let mut list = String::new();
        for root in &self.roots {
            let separator = if list.is_empty() { "" } else { ", " };
            let _ = write!(list, "{separator}{}", root.path.display());
        }
        list
    }

    /// The root with this index.
    pub(crate) fn get(&self, index: usize) -> &Root {
        &self.roots[index]
    }

    /// The innermost root that `path` lies below, and the rest of the path.
    pub(crate) fn enclosing<'path>(&self, path: &'path Path) -> Option<(usize, &'path Path)> {
        self.roots
            .iter()
            .enumerate()
            .filter_map(|(index, root)| Some((index, path.strip_prefix(&root.path).ok()?)))
            .min_by_key(|(_, rest)| rest.components().count())
    }

    /// The store path `path`, whatever kind of file it is.
    pub(crate) fn find(&self, path: &Path) -> Result<StorePathHandle, StorePathError> {
        let outside = || StorePathError::NotBelowRoot { path: path.to_owned(), roots: self.list() };
        let (root_index, rest) = self.enclosing(path).ok_or_else(outside)?;
        let mut components = rest.components();
        let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
            return Err(outside());
        };
        let root = self.get(root_index);
        if !root.accepts(name) {
            return Err(StorePathError::Name {
                path: path.to_owned(),
                root: root.path.clone(),
                accepted: root.naming.accepted(),
            });
        }
        let descriptor = open_component(root.directory.as_fd(), name, OFlags::PATH)
            .map_err(|source| StorePathError::Open { path: path.to_owned(), source })?;
        Ok(StorePathHandle { root: root_index, name: name.into(), path: root.path.join(name), descriptor })
    }

    /// The store path `path`, which has to be a directory.
    pub(crate) fn find_directory(&self, path: &Path) -> Result<StorePathHandle, StorePathError> {
        let handle = self.find(path)?;
        let status = fstat(&handle.descriptor)
            .map_err(|source| StorePathError::Open { path: handle.path.clone(), source })?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => Ok(handle),
            found => Err(StorePathError::NotADirectory { path: handle.path, found: describe(found) }),
        }
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self, RootError> {
        // `components` has already dropped inner `.` and doubled slashes; a leading `.` and every `..` remain.
        let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        if !plain {
            return Err(RootError::NotAbsolute { path: path.to_owned() });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())
            .map_err(|source| RootError::Open { path: path.to_owned(), source })?;
        let path: PathBuf = path.components().collect();
        let naming = if path == Path::new(NIX_STORE) { Naming::Nix } else { Naming::Plain };
        Ok(Self { path, directory, naming })
    }

    /// The root's path as configured.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The root itself.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether `name` can be a store path here.
    pub(crate) fn accepts(&self, name: &OsStr) -> bool {
        self.naming.accepts(name.as_bytes())
    }

    /// What names are accepted, for messages.
    pub(crate) fn accepted(&self) -> &'static str {
        self.naming.accepted()
    }
}

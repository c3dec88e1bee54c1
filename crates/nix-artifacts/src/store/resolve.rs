//! Walking a path component by component from a root's descriptor, with links re-based by hand.
//!
//! ```text
//!            ".."  ──► one directory up; above the root: refused
//!            name  ──► directory ──► entered
//! pending ─►           link      ──► absolute: start again below the root that holds the target, or refuse
//!                                    relative: its components go before those still pending
//!                      other     ──► the end; more components pending: refused
//! ```
//! The kernel never sees more than one component at a time and never follows a link, so no rename or swap of a
//! link while we walk can lead out of the roots.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat, readlinkat};
use rustix::io::Errno;
use vm_model::FileIdentity;

use super::identity::identify_settled;
use super::open::{OpenedFile, describe, open_component};
use super::roots::StorePathHandle;
use super::{ResolveError, StorePathError, StoreRoots, Trail};

/// Links followed for one path; what Linux itself follows.
const MAX_LINKS: usize = 40;
/// Bytes in a path, and so in what is still to be walked; Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Resolves paths as one store path sees them, and notes which store paths they lead through.
pub(crate) struct Resolver<'roots> {
    roots: &'roots StoreRoots,
    home: StorePathHandle,
    trail: Trail,
}

impl<'roots> Resolver<'roots> {
    /// A resolver for paths that are relative to `home`.
    pub(crate) fn new(roots: &'roots StoreRoots, home: StorePathHandle) -> Result<Self, StorePathError> {
        let identity = identify_settled(&home.descriptor)
            .map_err(|source| StorePathError::Open { path: home.path.clone(), source })?;
        let mut trail = Trail::default();
        // Nothing was noted before that could differ.
        let _ = trail.note(&home.path, PathBuf::new(), identity);
        Ok(Self { roots, home, trail })
    }

    /// The store path that relative paths start from.
    pub(crate) fn home(&self) -> &Path {
        &self.home.path
    }

    /// Opens the regular file at `path`: relative to the store path, or absolute inside a root.
    pub(crate) fn open(&mut self, path: &Path) -> Result<OpenedFile, ResolveError> {
        Walk::start(self.roots, &self.home, &mut self.trail, path)?.run()
    }

    /// Whether the store path has an entry `name`, of whatever kind.
    pub(crate) fn contains(&self, name: &str) -> Result<bool, ResolveError> {
        match open_component(self.home.descriptor.as_fd(), name.as_ref(), OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(source) => Err(refused(self.home.path.join(name), source)),
        }
    }

    /// Everything that the opened paths led through.
    pub(crate) fn into_trail(self) -> Trail {
        self.trail
    }
}

/// What one component turned out to be.
enum Step {
    Entered,
    Ended(OpenedFile),
}

/// A link that was followed.
struct Link {
    path: PathBuf,
    target: PathBuf,
    /// Components that were pending before the target's: while there are at least as many, the target is not
    /// yet walked to its end.
    pending_before: usize,
}

/// One path being walked.
struct Walk<'roots, 'trail> {
    roots: &'roots StoreRoots,
    /// What was met so far, by this walk and others before.
    trail: &'trail mut Trail,
    requested: PathBuf,
    root: usize,
    /// Directories from the root down to where we stand, each with its name.
    entered: Vec<(OsString, OwnedFd)>,
    /// What is still to be walked, the next component last.
    pending: Vec<OsString>,
    /// The last link followed.
    last_link: Option<Link>,
    links: usize,
}

impl<'roots, 'trail> Walk<'roots, 'trail> {
    fn start(
        roots: &'roots StoreRoots,
        home: &StorePathHandle,
        trail: &'trail mut Trail,
        path: &Path,
    ) -> Result<Self, ResolveError> {
        let mut walk = Self {
            roots,
            trail,
            requested: path.to_owned(),
            root: home.root,
            entered: Vec::new(),
            pending: Vec::new(),
            last_link: None,
            links: 0,
        };
        if path.is_absolute() {
            walk.restart_at(path)?;
        } else {
            walk.queue(path)?;
            // Not by its name again: that may lead to another directory by now.
            let home_directory = home.descriptor.try_clone().map_err(|source| {
                let source = Errno::from_io_error(&source).unwrap_or(Errno::MFILE);
                ResolveError::Io { path: home.path.clone(), source }
            })?;
            walk.entered.push((home.name.clone().into_os_string(), home_directory));
        }
        Ok(walk)
    }

    fn run(&mut self) -> Result<OpenedFile, ResolveError> {
        while let Some(name) = self.pending.pop() {
            if name == ".." {
                if self.entered.pop().is_none() {
                    return Err(self.outside());
                }
            } else if let Step::Ended(file) = self.step(&name)? {
                return Ok(file);
            }
        }
        Err(ResolveError::NotAFile { path: self.location(None), found: describe(FileType::Directory) })
    }

    fn step(&mut self, name: &OsStr) -> Result<Step, ResolveError> {
        let path = self.location(Some(name));
        if self.entered.is_empty() {
            let root = self.roots.get(self.root);
            if !root.accepts(name) {
                let accepted = root.accepted();
                return Err(ResolveError::NotAStorePath { path, accepted });
            }
        }
        let failed = |source| self.failed(path.clone(), source);
        let found = open_component(self.directory(), name, OFlags::PATH).map_err(failed)?;
        let kind = FileType::from_raw_mode(fstat(&found).map_err(failed)?.st_mode);
        match kind {
            FileType::Directory => {
                self.note(name, identify_settled(&found).map_err(failed)?)?;
                self.entered.push((name.to_owned(), found));
                Ok(Step::Entered)
            }
            FileType::Symlink => {
                let identity = identify_settled(&found).map_err(failed)?;
                let target = readlinkat(&found, c"", Vec::new()).map_err(failed)?;
                self.note(name, identity)?;
                self.follow(path, OsString::from_vec(target.into_bytes()).into())?;
                Ok(Step::Entered)
            }
            _ if !self.pending.is_empty() => Err(ResolveError::NotADirectory { path, found: describe(kind) }),
            FileType::RegularFile => self.open_regular(name, path).map(Step::Ended),
            _ => Err(ResolveError::NotAFile { path, found: describe(kind) }),
        }
    }

    fn follow(&mut self, link: PathBuf, target: PathBuf) -> Result<(), ResolveError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(ResolveError::TooManyLinks { path: self.requested.clone(), limit: MAX_LINKS });
        }
        self.last_link =
            Some(Link { path: link, target: target.clone(), pending_before: self.pending.len() });
        if target.is_absolute() { self.restart_at(&target) } else { self.queue(&target) }
    }

    /// Continues below the root that holds the absolute path `target`.
    fn restart_at(&mut self, target: &Path) -> Result<(), ResolveError> {
        let (root, rest) = self.roots.enclosing(target).ok_or_else(|| self.outside())?;
        self.root = root;
        self.entered.clear();
        self.queue(rest)
    }

    fn queue(&mut self, path: &Path) -> Result<(), ResolveError> {
        let waiting: usize = self.pending.iter().map(|name| name.len() + 1).sum();
        if waiting + path.as_os_str().len() > MAX_PATH {
            return Err(ResolveError::TooLong { limit: MAX_PATH });
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.pending.push(name.to_owned()),
                Component::ParentDir => self.pending.push("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    /// Opens a file just seen to be regular, and looks again at what was opened.
    fn open_regular(&mut self, name: &OsStr, path: PathBuf) -> Result<OpenedFile, ResolveError> {
        let failed = |source| self.failed(path.clone(), source);
        // Without NONBLOCK, a FIFO put in the file's place since would block us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_component(self.directory(), name, flags).map_err(failed)?;
        let status = fstat(&file).map_err(failed)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind != FileType::RegularFile {
            let found = describe(kind);
            return Err(ResolveError::NotAFile { path, found });
        }
        // io_uring answers EAGAIN instead of waiting for the disk where a file has NONBLOCK set.
        let flags = fcntl_getfl(&file).map_err(failed)?;
        fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(failed)?;
        let identity = identify_settled(&file).map_err(failed)?;
        self.note(name, identity)?;
        let file = File::from(file);
        Ok(OpenedFile { file, path, identity })
    }

    /// Notes what the entry `name` of where we stand is.
    fn note(&mut self, name: &OsStr, identity: FileIdentity) -> Result<(), ResolveError> {
        let mut names = self.entered.iter().map(|(name, _)| name.as_os_str()).chain([name]);
        let store_path = self.roots.get(self.root).path().join(names.next().unwrap_or_default());
        let noted = self.trail.note(&store_path, names.collect(), identity);
        noted.map_err(|difference| ResolveError::Changed { path: self.location(Some(name)), difference })
    }

    fn directory(&self) -> BorrowedFd<'_> {
        match self.entered.last() {
            Some((_, directory)) => directory.as_fd(),
            None => self.roots.get(self.root).directory(),
        }
    }

    fn location(&self, next: Option<&OsStr>) -> PathBuf {
        let mut path = self.roots.get(self.root).path().to_owned();
        path.extend(self.entered.iter().map(|(name, _)| name.as_os_str()));
        path.extend(next);
        path
    }

    fn link_being_walked(&self) -> Option<&Link> {
        self.last_link.as_ref().filter(|link| self.pending.len() >= link.pending_before)
    }

    fn outside(&self) -> ResolveError {
        let roots = self.roots.list();
        match self.link_being_walked() {
            Some(link) => {
                ResolveError::LinkOutside { link: link.path.clone(), target: link.target.clone(), roots }
            }
            None => ResolveError::Outside { path: self.requested.clone(), roots },
        }
    }

    fn failed(&self, path: PathBuf, source: Errno) -> ResolveError {
        let is_store_path = self.entered.is_empty();
        match (source, self.link_being_walked()) {
            (Errno::NOENT, Some(link)) => ResolveError::DanglingLink {
                link: link.path.clone(),
                target: link.target.clone(),
                missing: path,
                is_store_path,
            },
            (Errno::NOENT, None) => ResolveError::Missing { path, is_store_path },
            _ => refused(path, source),
        }
    }
}

fn refused(path: PathBuf, source: Errno) -> ResolveError {
    match source {
        Errno::ACCESS | Errno::PERM => ResolveError::Permission { path, source },
        _ => ResolveError::Io { path, source },
    }
}

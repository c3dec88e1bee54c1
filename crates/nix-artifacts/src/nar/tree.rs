//! Walking a store path in the archive's order, with bounded memory and no trust in the file system standing
//! still: every file is opened by one component below an open directory, and one that changes while it is read
//! is an error, not a wrong hash. So is one that is not what it was when a machine's files were opened.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Dir, FileType, OFlags, fstat, readlinkat};
use rustix::io::Errno;
use vm_model::{FileIdentity, NarHash};

use super::NarError;
use super::content::{ContentError, ContentReader};
use super::encode::NarEncoder;
use super::feed::Feed;
use crate::store::{FileIdentities, describe, identify, identify_settled, open_component};

/// Directories inside one another; one descriptor is held open for each.
const MAX_DEPTH: usize = 256;
/// Entries of one directory, whose names are held in memory to be sorted.
const MAX_ENTRIES: usize = 1 << 20;
/// Files whose identities are noted beyond those that were asked for: artifacts have a handful.
const MAX_NOTED: usize = 1024;

/// Told after each piece that was hashed how many bytes of file content have been hashed so far; answers
/// whether to go on.
pub type NarProgress<'progress> = dyn FnMut(u64) -> ControlFlow<()> + 'progress;

/// Joins what lies below `root` to it; `root` itself where that is nothing.
fn join(root: &Path, below: &Path) -> PathBuf {
    root.components().chain(below.components()).collect()
}

/// What is to be hashed.
pub(super) struct Tree<'tree> {
    /// The directory that it lies in.
    pub(super) directory: BorrowedFd<'tree>,
    /// Its name there.
    pub(super) name: &'tree OsStr,
    /// Its path, for errors.
    pub(super) path: &'tree Path,
    /// Files that have to be there and to be the same.
    pub(super) expected: Option<&'tree FileIdentities>,
    /// Files whose content is handed on.
    pub(super) feeds: Vec<Feed>,
}

/// The hash of `tree`, and what its files were while they were read.
pub(super) fn hash_tree(
    tree: Tree<'_>,
    progress: &mut NarProgress<'_>,
) -> Result<(NarHash, FileIdentities), NarError> {
    let mut walk = TreeWalk {
        encoder: NarEncoder::new(),
        path: tree.path.to_owned(),
        root: tree.path,
        open: Vec::new(),
        content: ContentReader::new(progress),
        noted: FileIdentities::default(),
        expected: tree.expected,
        feeds: tree.feeds,
    };
    walk.node(tree.directory, tree.name)?;
    while walk.next_entry()? {}
    let mut expected = tree.expected.into_iter().flat_map(FileIdentities::iter);
    match expected.find(|(path, _)| walk.noted.get(path).is_none()) {
        Some((missing, _)) => Err(NarError::GoneSinceOpened { path: join(tree.path, missing) }),
        None => Ok((walk.encoder.finish(), walk.noted)),
    }
}

/// A directory whose entries are being written.
struct OpenDirectory {
    directory: Rc<OwnedFd>,
    /// What it was before its names were read.
    identity: FileIdentity,
    /// Names still to come, the next one last.
    remaining: Vec<OsString>,
}

/// Whether a node is complete, or a directory whose entries are still to come.
enum Node {
    Complete,
    DirectoryBegun,
}

struct TreeWalk<'tree, 'progress> {
    encoder: NarEncoder,
    /// Where we stand, for errors.
    path: PathBuf,
    /// Where we began.
    root: &'tree Path,
    /// The directories we are in, the innermost last.
    open: Vec<OpenDirectory>,
    content: ContentReader<'tree, 'progress>,
    /// What files were before they were read.
    noted: FileIdentities,
    /// What they have to be.
    expected: Option<&'tree FileIdentities>,
    feeds: Vec<Feed>,
}

impl TreeWalk<'_, '_> {
    /// Writes the next entry of the innermost open directory, or closes it; false when none is open.
    fn next_entry(&mut self) -> Result<bool, NarError> {
        let Some(innermost) = self.open.last_mut() else {
            return Ok(false);
        };
        let Some(name) = innermost.remaining.pop() else {
            let (directory, identity) = (Rc::clone(&innermost.directory), innermost.identity);
            self.open.pop();
            self.ensure_same(&directory, &identity)?;
            self.encoder.end_directory();
            if !self.open.is_empty() {
                self.encoder.end_entry();
                self.path.pop();
            }
            return Ok(true);
        };
        let parent = Rc::clone(&innermost.directory);
        self.encoder.begin_entry(name.as_bytes());
        self.path.push(&name);
        if let Node::Complete = self.node(parent.as_fd(), &name)? {
            self.encoder.end_entry();
            self.path.pop();
        }
        Ok(true)
    }

    /// Writes the node `name`; a directory is only begun.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Node, NarError> {
        let found = open_component(parent, name, OFlags::PATH).map_err(|source| self.unreadable(source))?;
        let status = fstat(&found).map_err(|source| self.unreadable(source))?;
        let identity = identify_settled(&found).map_err(|source| self.unreadable(source))?;
        self.note(&identity)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = File::from(self.reopen(parent, name, flags, &identity)?);
                let executable = status.st_mode & 0o100 != 0;
                self.regular(&file, identity.size, executable)?;
                self.ensure_same(&file, &identity)?;
                Ok(Node::Complete)
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let directory = self.reopen(parent, name, flags, &identity)?;
                self.directory(directory, identity)?;
                Ok(Node::DirectoryBegun)
            }
            FileType::Symlink => {
                let target = readlinkat(&found, c"", Vec::new()).map_err(|source| self.unreadable(source))?;
                self.encoder.symlink(target.as_bytes());
                Ok(Node::Complete)
            }
            kind => Err(NarError::Kind { path: self.path.clone(), found: describe(kind) }),
        }
    }

    /// Compares what a file is with what it has to be, and keeps it.
    fn note(&mut self, identity: &FileIdentity) -> Result<(), NarError> {
        let path = self.relative().to_owned();
        let expected = self.expected.and_then(|expected| expected.get(&path));
        if let Some(difference) = expected.and_then(|expected| expected.difference(identity)) {
            return Err(NarError::ChangedSinceOpened { path: self.path.clone(), difference });
        }
        // What is kept goes into text files.
        let is_kept = self.noted.len() < MAX_NOTED && path.to_str().is_some();
        if expected.is_some() || is_kept {
            self.noted.insert(path, *identity);
        }
        Ok(())
    }

    /// Where we stand, relative to where we began.
    fn relative(&self) -> &Path {
        self.path.strip_prefix(self.root).unwrap_or(&self.path)
    }

    /// Opens for reading what was looked at before, and makes sure that it is still the same.
    fn reopen(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        flags: OFlags,
        seen: &FileIdentity,
    ) -> Result<OwnedFd, NarError> {
        let opened = open_component(parent, name, flags).map_err(|source| self.unreadable(source))?;
        self.ensure_same(&opened, seen)?;
        Ok(opened)
    }

    /// Makes sure that what is open is what was `seen` before.
    fn ensure_same(&self, open: impl AsFd, seen: &FileIdentity) -> Result<(), NarError> {
        let now = identify(open).map_err(|source| self.unreadable(source))?;
        if now == *seen { Ok(()) } else { Err(self.changed()) }
    }

    fn regular(&mut self, file: &File, size: u64, executable: bool) -> Result<(), NarError> {
        let wanted = self.feeds.iter().position(|feed| feed.path == self.relative());
        let feed = wanted.map(|position| self.feeds.swap_remove(position));
        self.encoder.begin_file(executable, size);
        self.content.read(file, size, &mut self.encoder, feed).map_err(|error| match error {
            ContentError::Changed => self.changed(),
            ContentError::Read(source) => self.failed(source),
            ContentError::Stopped => NarError::Stopped { path: self.path.clone() },
        })?;
        self.encoder.end_file(size);
        Ok(())
    }

    fn directory(&mut self, directory: OwnedFd, identity: FileIdentity) -> Result<(), NarError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(NarError::TooDeep { path: self.path.clone(), limit: MAX_DEPTH });
        }
        let mut names = Vec::new();
        let listing = Dir::read_from(&directory).map_err(|source| self.unreadable(source))?;
        for entry in listing {
            let entry = entry.map_err(|source| self.unreadable(source))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == MAX_ENTRIES {
                return Err(NarError::TooManyEntries { path: self.path.clone(), limit: MAX_ENTRIES });
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        names.sort_unstable_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
        self.encoder.begin_directory();
        self.open.push(OpenDirectory { directory: Rc::new(directory), identity, remaining: names });
        Ok(())
    }

    fn changed(&self) -> NarError {
        NarError::Changed { path: self.path.clone() }
    }

    fn failed(&self, source: io::Error) -> NarError {
        NarError::Read { path: self.path.clone(), source }
    }

    /// An entry that was listed and is gone, or something that became a link, has changed; anything else is the
    /// kernel's word.
    fn unreadable(&self, source: Errno) -> NarError {
        match source {
            Errno::LOOP | Errno::NOTDIR => self.changed(),
            Errno::NOENT if !self.open.is_empty() => self.changed(),
            _ => self.failed(source.into()),
        }
    }
}

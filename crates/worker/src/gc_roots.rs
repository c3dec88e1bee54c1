//! Keeping Nix's garbage collector, and the one for fetched paths, away from the store paths of VMs.
//!
//! ```text
//! <store>/../var/nix/gcroots/procurator/<state directory>/<vm>/<name of the store path>  →  the store path
//! <store>/.procurator-fetched/roots/<state directory>/<vm>/…                             where there is no Nix
//! ```
//!
//! A link is made before a path is looked at, and goes when the VM's definition no longer needs the path, or the VM is
//! deleted. Links of VMs that a worker does not know, left behind by one that was killed, go when it starts. Several workers
//! of a host have a directory each. Where there is neither Nix nor anything fetched, nothing is made.
//!
//! Whoever may write among Nix's roots must not have this worker remove what is theirs elsewhere: directories are entered
//! without following links, and nothing but a link is removed.
//!
//! A collection that has begun before the link was made does not see it: the VM then fails as if its path had never been
//! there, or runs on the files that it has open.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat2, readlinkat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;
use tracing::warn;
use vm_model::VmId;

use crate::failure::chain;

/// Ours among the roots of others.
const OURS: &str = "procurator";

/// Where Nix's roots lie, seen from where a store does.
const OF_NIX: &str = "var/nix/gcroots";
/// Where in a store roots lie that no Nix keeps, beside the records of what was fetched.
const WITHOUT_NIX: &str = ".procurator-fetched/roots";

/// The directories below which links keep paths of the store at `root`.
pub(crate) fn root_directories(root: &Path) -> Vec<PathBuf> {
    let of_nix = root.parent().map(|parent| parent.join(OF_NIX));
    of_nix.into_iter().chain([root.join(WITHOUT_NIX)]).collect()
}

/// Whether paths are fetched into the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchedInto {
    Yes,
    /// They may have been before.
    No,
}

/// The links of this worker's VMs.
#[derive(Debug)]
pub(crate) struct GcRoots {
    stores: Vec<Store>,
}

/// A store whose garbage is collected.
#[derive(Debug)]
struct Store {
    /// Where its paths lie.
    root: PathBuf,
    /// Where this worker's links lie.
    links: PathBuf,
}

/// A link was not made.
#[derive(Debug, Error)]
#[error("{} is not kept from Nix's garbage collector: the link {} cannot be made", target.display(), link.display())]
pub(crate) struct GcRootError {
    target: PathBuf,
    link: PathBuf,
    #[source]
    source: io::Error,
}

impl GcRoots {
    /// The links for paths below `store_roots` of the worker whose state lies in `state_dir`.
    pub(crate) fn new(store_roots: &[PathBuf], state_dir: &Path, fetched_into: FetchedInto) -> Self {
        let own = own_name(state_dir);
        let stores = store_roots.iter().filter_map(|root| {
            // As it is reached now: below it, no link is followed.
            let of_nix = root.parent().and_then(|parent| parent.join(OF_NIX).canonicalize().ok());
            if let Some(gcroots) = of_nix.filter(|gcroots| gcroots.is_dir()) {
                return Some(Store { root: root.clone(), links: gcroots.join(OURS).join(&own) });
            }
            let ours = root.canonicalize().ok()?.join(WITHOUT_NIX);
            let is_fetched_into = fetched_into == FetchedInto::Yes || ours.parent()?.is_dir();
            is_fetched_into.then(|| Store { root: root.clone(), links: ours.join(&own) })
        });
        Self { stores: stores.collect() }
    }

    /// Keeps `path` for `vm`. Nothing is done for what lies in no store of Nix's.
    pub(crate) fn hold(&self, vm: &VmId, path: &Path) -> Result<(), GcRootError> {
        let Some((store, name)) = self.find(path) else { return Ok(()) };
        let directory = store.links.join(vm.as_str());
        let link = directory.join(name);
        let is_there = || fs::read_link(&link).is_ok_and(|target| target == path);
        if is_there() {
            return Ok(());
        }
        let made = fs::create_dir_all(&directory).and_then(|()| symlink(path, &link));
        match made {
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists && is_there() => Ok(()),
            Err(source) => Err(GcRootError { target: path.to_owned(), link, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Gives up every path of `vm` but `needed`. What cannot be removed is logged, and goes with the next one.
    pub(crate) fn keep_only(&self, vm: &VmId, needed: &BTreeSet<PathBuf>) {
        for store in &self.stores {
            let path = store.links.join(vm.as_str());
            match keep_links(&path, needed) {
                // Where there are others, that is refused.
                Ok(()) => drop(fs::remove_dir(&path)),
                Err(Errno::NOENT) => {}
                Err(problem) => {
                    warn!(vm_id = %vm, directory = %path.display(), error = chain(&problem), "garbage collector's roots stay");
                }
            }
        }
    }

    /// Gives up every path of `vm`.
    pub(crate) fn release(&self, vm: &VmId) {
        self.keep_only(vm, &BTreeSet::new());
    }

    /// Gives up the paths of VMs that are not `known`.
    pub(crate) fn reconcile(&self, known: &BTreeSet<VmId>) {
        for store in &self.stores {
            let entries = fs::read_dir(&store.links).into_iter().flatten().flatten();
            let names: Vec<String> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            let vms = names.iter().filter_map(|name| VmId::parse(name).ok());
            vms.filter(|vm| !known.contains(vm)).for_each(|vm| self.release(&vm));
        }
    }

    /// The store that `path` lies directly in, and its name there.
    fn find<'path>(&self, path: &'path Path) -> Option<(&Store, &'path std::ffi::OsStr)> {
        let store = self.stores.iter().find(|store| path.parent() == Some(&store.root))?;
        Some((store, path.file_name()?))
    }
}

/// Removes the links in the directory at `path` that lead to nothing `needed`, and what is no link not.
fn keep_links(path: &Path, needed: &BTreeSet<PathBuf>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        // What is no link is not ours.
        let Ok(target) = readlinkat(&directory, entry.file_name(), Vec::new()) else { continue };
        if !needed.contains(Path::new(OsStr::from_bytes(target.to_bytes()))) {
            unlinkat(&directory, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

/// A name for the worker of `state_dir`: the path, with `-` for `/` as systemd writes paths in names of units.
fn own_name(state_dir: &Path) -> String {
    let text = state_dir.to_string_lossy();
    text.trim_matches('/').replace('\\', r"\x5c").replace('-', r"\x2d").replace('/', "-")
}

#[cfg(test)]
mod tests;

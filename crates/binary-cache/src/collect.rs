//! Deleting fetched paths again that nothing needs.
//!
//! ```text
//! locked for moments:  who needs what? ──▶ plan ──▶ each path renamed away, then its record removed
//! afterwards:          what was renamed away is deleted, which may take long
//! ```
//!
//! The lock is that of the places where fetches unpack: a fetch notes under it which paths it relies on before it looks whether
//! they are there, and a VM's start passes it between its root and its look ([`settle`]). A path goes before what it needs, and
//! what was renamed away lies where the next fetch or collection removes it: whenever a process is killed, all that is left in
//! the store is whole, and so is what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::renameat;
use rustix::io::Errno;
use thiserror::Error;
use vm_model::{Bytes, CollectedPath, CollectionCause, CollectionRule, StoreName, Timestamp};

use crate::fetched::{FetchedPath, FetchedPaths};
use crate::staging::StagingRoot;
use crate::store::{Store, StoreError, directory_error};

/// How old a note that a path is needed has to be to be renewed.
const NOTED_FOR: Duration = Duration::from_secs(60 * 60);

/// Whether a collection deletes, or only tells what it would delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionMode {
    /// It deletes.
    Delete,
    /// It only tells.
    Show,
}

/// Why nothing more was collected.
#[derive(Debug, Error)]
pub enum CollectionError {
    /// Nix keeps the store, and its paths are Nix's to collect.
    #[error("Nix keeps this store: `nix-collect-garbage` deletes what nothing needs there")]
    KeptByNix,
    /// It is not known what is needed.
    #[error("it is not known which paths are needed")]
    Needs(#[source] Box<dyn Error + Send + Sync>),
    /// The store does not do as it is told.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Waits until no collection is about to delete from the store at `store`. Who has made known before that a path is needed, and
/// finds it afterwards, keeps it.
pub fn settle(store: &Path) {
    StagingRoot::within(store).settle();
}

impl Store {
    /// Deletes what `rule` says of the fetched paths that are neither in `needed` nor needed by one that is, nor by a fetch that
    /// is under way. `needed` is asked while nothing else begins to need a path.
    ///
    /// # Errors
    /// Nix keeps the store, `needed` does not know, or a file cannot be read or moved. What was deleted before stays so.
    pub fn collect(
        &self,
        rule: &CollectionRule,
        mode: CollectionMode,
        needed: &dyn Fn() -> Result<BTreeSet<StoreName>, Box<dyn Error + Send + Sync>>,
    ) -> Result<Vec<CollectedPath>, CollectionError> {
        if self.is_kept_by_nix() {
            return Err(CollectionError::KeptByNix);
        }
        let mut all = Vec::new();
        loop {
            let collected = self.collect_once(rule, mode, needed)?;
            let is_over = collected.is_empty() || mode == CollectionMode::Show || rule.free.is_none();
            all.extend(collected);
            // Holes of what was deleted give no space back: it may take more than was planned.
            if is_over {
                return Ok(all);
            }
        }
    }

    fn collect_once(
        &self,
        rule: &CollectionRule,
        mode: CollectionMode,
        needed: &dyn Fn() -> Result<BTreeSet<StoreName>, Box<dyn Error + Send + Sync>>,
    ) -> Result<Vec<CollectedPath>, CollectionError> {
        let (records, now) = (FetchedPaths::within(self.path()), SystemTime::now());
        // Removed with all that was moved there at the end, when the lock is free again.
        let trash = self.stage()?;
        let locked = self.lock()?;
        let mut paths = records.read()?;
        // Somebody else deleted those, or they were never put in place.
        for name in self.absent(paths.keys().cloned().collect())? {
            paths.remove(&name);
            if mode == CollectionMode::Delete {
                records.remove(&name)?;
            }
        }
        let roots = needed().map_err(CollectionError::Needs)?.into_iter().chain(locked.relied_on()?);
        let live = with_needs(roots, &paths);
        let going = plan(&paths, &live, rule, (now, self.free()?));
        if mode == CollectionMode::Delete {
            let is_noted = |name: &&StoreName| paths.get(name).is_none_or(|path| age(path, now) < NOTED_FOR);
            live.iter().filter(|name| !is_noted(name)).for_each(|name| records.touch(name, now));
            for going in &going {
                let (from, name) = (self.path().join(going.name.as_str()), going.name.as_str());
                match renameat(self.directory(), name, &trash, name) {
                    Ok(()) | Err(Errno::NOENT) => records.remove(&going.name)?,
                    Err(errno) => return Err(directory_error("move away", &from)(errno.into()).into()),
                }
            }
        }
        Ok(going.into_iter().map(|going| going.told(self.path())).collect())
    }
}

/// A path that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Going {
    name: StoreName,
    size: Bytes,
    needed_last: SystemTime,
    cause: CollectionCause,
}

impl Going {
    fn told(self, store: &Path) -> CollectedPath {
        let since = self.needed_last.duration_since(UNIX_EPOCH).unwrap_or_default();
        let needed_last = Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let store_path = store.join(self.name.as_str());
        CollectedPath { store_path, size: self.size, needed_last, cause: self.cause }
    }
}

/// `roots` and all that they need, as far as that is on record.
fn with_needs(
    roots: impl IntoIterator<Item = StoreName>,
    paths: &BTreeMap<StoreName, FetchedPath>,
) -> BTreeSet<StoreName> {
    let (mut live, mut pending) = (BTreeSet::new(), roots.into_iter().collect::<Vec<_>>());
    while let Some(name) = pending.pop() {
        if let Some(path) = paths.get(&name)
            && !live.contains(&name)
        {
            pending.extend(path.needs.iter().cloned());
        }
        live.insert(name);
    }
    live
}

/// How long nothing has needed it. A clock that was set back makes nothing old.
fn age(path: &FetchedPath, now: SystemTime) -> Duration {
    now.duration_since(path.needed_last).unwrap_or_default()
}

/// What of `paths` goes that is not `live`, in the order in which it goes: what was needed last goes last, and everything goes
/// before what it needs. Nothing goes after a path that stays.
fn plan(
    paths: &BTreeMap<StoreName, FetchedPath>,
    live: &BTreeSet<StoreName>,
    rule: &CollectionRule,
    (now, free): (SystemTime, Bytes),
) -> Vec<Going> {
    let order = going_order(paths, live);
    let total = order.iter().map(|(name, _)| paths[name].size.get()).fold(0, u64::saturating_add);
    let (mut going, mut freed) = (Vec::new(), 0_u64);
    for (name, needed_last) in order {
        let size = paths[&name].size;
        let unused = now.duration_since(needed_last).unwrap_or_default();
        let is_short = |free_wanted: Bytes| free.get().saturating_add(freed) < free_wanted.get();
        let cause = if *rule == CollectionRule::default() {
            CollectionCause::Unneeded
        } else if rule.unused_for.is_some_and(|limit| unused >= limit) {
            CollectionCause::Age
        } else if rule.keep.is_some_and(|keep| total - freed > keep.get()) {
            CollectionCause::Amount
        } else if rule.free.is_some_and(is_short) {
            CollectionCause::Space
        } else {
            break;
        };
        freed = freed.saturating_add(size.get());
        going.push(Going { name, size, needed_last, cause });
    }
    going
}

/// The paths that are not `live`, each before what it needs, and among those that may go next the one that was needed first. Each
/// with when it, or one that needs it, was needed last.
fn going_order(
    paths: &BTreeMap<StoreName, FetchedPath>,
    live: &BTreeSet<StoreName>,
) -> Vec<(StoreName, SystemTime)> {
    let dead = |name: &&StoreName| paths.contains_key(*name) && !live.contains(*name);
    let needs = |name: &StoreName| {
        let own = name.clone();
        paths[name].needs.iter().filter(dead).filter(move |need| **need != own).collect::<BTreeSet<_>>()
    };
    let mut needed_last: BTreeMap<&StoreName, SystemTime> =
        paths.keys().filter(dead).map(|name| (name, paths[name].needed_last)).collect();
    let mut needing: BTreeMap<&StoreName, usize> = needed_last.keys().map(|name| (*name, 0)).collect();
    for name in needed_last.keys() {
        needs(name).into_iter().for_each(|need| *needing.entry(need).or_default() += 1);
    }
    let free = needing.iter().filter(|(_, count)| **count == 0);
    let mut next: BTreeSet<(SystemTime, &StoreName)> =
        free.map(|(name, _)| (needed_last[name], *name)).collect();
    let mut order = Vec::new();
    while let Some((when, name)) = next.pop_first() {
        order.push((name.clone(), when));
        for need in needs(name) {
            let last = needed_last.entry(need).or_insert(when);
            *last = (*last).max(when);
            let left = needing.entry(need).or_default();
            *left -= 1;
            if *left == 0 {
                next.insert((*last, need));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests;

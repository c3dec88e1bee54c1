//! Deleting fetched store paths that nothing needs any more: by the clock, to make room, and by word. Paths of a store that Nix
//! keeps are Nix's.

mod needed;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use binary_cache::{CollectionError, CollectionMode, Store};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::{Bytes, CollectedPath, CollectionRule, EventKind, StoreName};

use self::needed::StorePlace;
use crate::failure::chain;
use crate::supervisor::HostContext;

/// How long after the worker's start nothing is collected by the clock: by then the clock has been set, and what should run has
/// been asked for.
const FIRST: Duration = Duration::from_secs(120);
/// How often it is looked. What is needed then is noted as needed.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Collects by `rule` for as long as the host is there.
pub(crate) async fn collect_by_rule(context: Weak<HostContext>, rule: CollectionRule) {
    sleep(FIRST).await;
    loop {
        let Some(host) = context.upgrade() else { return };
        let collected = spawn_blocking(move || host.collect(&by_itself(rule), CollectionMode::Delete)).await;
        if let Ok(Err(problem)) = collected {
            warn!(error = problem, "what nothing needs of the fetched store paths stays");
        }
        sleep(EVERY).await;
    }
}

/// A rule that says nothing would have everything go.
fn by_itself(rule: CollectionRule) -> CollectionRule {
    let keep = rule.keep.or((rule == CollectionRule::default()).then_some(Bytes::new(u64::MAX)));
    CollectionRule { keep, ..rule }
}

impl HostContext {
    /// Deletes what `rule` says of the fetched paths that nothing needs, or tells what that would be; in all stores.
    ///
    /// # Errors
    /// In a sentence; what was deleted before that stays so.
    pub(crate) fn collect(
        &self,
        rule: &CollectionRule,
        mode: CollectionMode,
    ) -> Result<Vec<CollectedPath>, String> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        for root in self.fetching.stores().iter().filter(|root| root.is_dir()) {
            let place = StorePlace::of(root).map_err(|problem| format!("{}: {problem}", root.display()))?;
            // Several names may lead to one store.
            if seen.insert(place.identity()) {
                all.extend(self.collect_in(root, rule, mode)?);
            }
        }
        Ok(all)
    }

    /// Has so much be free in the store at `root`, as far as deleting what nothing needs does that; whether anything was deleted.
    pub(crate) fn make_room_in(&self, root: &Path, free: Bytes) -> bool {
        let rule = CollectionRule { free: Some(free), ..CollectionRule::default() };
        match self.collect_in(root, &rule, CollectionMode::Delete) {
            Ok(collected) => !collected.is_empty(),
            Err(problem) => {
                warn!(error = problem, "no room is made for what is to be fetched");
                false
            }
        }
    }

    fn collect_in(
        &self,
        root: &Path,
        rule: &CollectionRule,
        mode: CollectionMode,
    ) -> Result<Vec<CollectedPath>, String> {
        let failed = |problem: &(dyn Error + 'static)| format!("{}: {}", root.display(), chain(problem));
        let store = Store::open(root).map_err(|problem| failed(&problem))?;
        let collected = match store.collect(rule, mode, &|| self.needed_in(root)) {
            // Its own collector does.
            Err(CollectionError::KeptByNix) => return Ok(Vec::new()),
            collected => collected.map_err(|problem| failed(&problem))?,
        };
        if mode == CollectionMode::Delete && !collected.is_empty() {
            for CollectedPath { store_path, size, cause, .. } in &collected {
                info!(store_path = %store_path.display(), %size, %cause, "a fetched store path was deleted");
            }
            let size = collected.iter().map(|path| path.size.get()).fold(0, u64::saturating_add);
            let kind = EventKind::ImagesCollected { paths: collected.len(), size: Bytes::new(size) };
            self.events.record(None, kind);
        }
        Ok(collected)
    }

    /// The paths of the store at `root` that a VM on record, a root of garbage collection or a process names.
    fn needed_in(&self, root: &Path) -> Result<BTreeSet<StoreName>, Box<dyn Error + Send + Sync>> {
        let store = StorePlace::of(root)?;
        let records = self.records.read_all()?;
        let assigned = records.iter().flat_map(|record| record.assignments());
        let mut names: BTreeSet<StoreName> = assigned
            .flat_map(|assignment| assignment.references.keys().chain([&assignment.store_path]))
            .filter_map(|path| store.name_of(path))
            .collect();
        names.extend(needed::rooted(&store)?);
        names.extend(needed::of_processes(&store, Path::new("/proc")));
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_the_clock_that_says_nothing_deletes_nothing() {
        let nothing = by_itself(CollectionRule::default());
        assert_ne!(nothing, CollectionRule::default());
        let aged = CollectionRule { unused_for: Some(EVERY), ..CollectionRule::default() };
        assert_eq!(by_itself(aged), aged);
    }
}

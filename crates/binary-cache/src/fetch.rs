//! Fetching a store path with all that it needs: asks what belongs to it, downloads what is missing several at a time, and puts
//! each into the store when it is whole and right and what it needs is there.

mod archive;
mod lookup;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use vm_model::{Bytes, StoreName};

use crate::FetchError;
use crate::cache::CacheUrl;
use crate::closure::{Closure, Known};
use crate::http::HttpClient;
use crate::signature::TrustedKey;
use crate::store::Store;
use archive::Archives;
use lookup::Lookup;

/// The most paths that are fetched with one.
const MOST_PATHS: usize = 1 << 16;
/// What is left free in a store.
pub(crate) const SPARED: u64 = 64 << 20;

/// From where, from whom and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// The caches, in the order in which they are asked.
    pub caches: Vec<CacheUrl>,
    /// Whose signatures are believed. A path without one of theirs is refused.
    pub trusted_keys: Vec<TrustedKey>,
    /// How many archives are downloaded at the same time.
    pub parallel: NonZeroUsize,
    /// The most that a path and all that it needs may be, unpacked.
    pub largest: Bytes,
    /// A PEM file of the certificates of authorities that `https` is checked with.
    pub authorities: PathBuf,
}

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Paths that are missing, as far as is known.
    pub paths: usize,
    /// Those of them that are in the store.
    pub paths_done: usize,
    /// Bytes that their archives have, unpacked.
    pub bytes: u64,
    /// Those of them that have come.
    pub bytes_done: u64,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Paths that were missing.
    pub paths: usize,
    /// Bytes that their archives have, unpacked.
    pub bytes: Bytes,
}

/// Fetches store paths.
pub struct Fetcher {
    settings: Arc<FetchSettings>,
    client: Arc<HttpClient>,
}

impl Fetcher {
    /// One with these settings.
    pub fn new(settings: FetchSettings) -> Self {
        let client = Arc::new(HttpClient::new(settings.authorities.clone()));
        Self { settings: Arc::new(settings), client }
    }

    /// Puts `name` and all that it needs into `store`, as far as it is missing there; `progress` is told how it goes. Belongs
    /// on a runtime with I/O and time. Where this is dropped, what is under way is given up within moments.
    ///
    /// # Errors
    /// Says which path cannot be had from where, and why. What is in the store then is whole, and so is what it needs.
    pub async fn fetch(
        &self,
        name: &StoreName,
        store: &Arc<Store>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Fetched, FetchError> {
        let staging = Arc::new(store.stage()?);
        let lookup = Lookup::new(self, store.clone(), staging.clone());
        let mut closure = lookup.closure(name).await?;
        let fetched = Fetched { paths: closure.len(), bytes: Bytes::new(closure.nar_size()) };
        progress.send_modify(|progress| {
            *progress = Progress { paths: fetched.paths, bytes: fetched.bytes.get(), ..Progress::default() };
        });
        if fetched.paths > 0 {
            self.check_space(name, store, fetched.bytes)?;
            let archives = Archives::new(self, lookup, store.clone(), staging, progress.clone());
            self.download(&mut closure, Arc::new(archives), progress).await?;
        }
        Ok(fetched)
    }

    /// Downloads and publishes all of `closure`.
    async fn download(
        &self,
        closure: &mut Closure,
        archives: Arc<Archives>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let turns = Arc::new(Semaphore::new(self.settings.parallel.get()));
        let mut downloads = JoinSet::new();
        for known in closure.downloads() {
            let (archives, turns) = (archives.clone(), turns.clone());
            downloads.spawn(async move {
                // Never closed.
                let _turn = turns.acquire_owned().await;
                archives.get(known).await
            });
        }
        let mut failure = None;
        while let Some(outcome) = downloads.join_next().await {
            let outcome = match outcome {
                Ok(Ok(unpacked)) if failure.is_none() => {
                    closure.unpacked(&unpacked.name);
                    publish_all(closure, &archives, progress).await
                }
                Ok(outcome) => outcome.map(drop),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Ok(()),
            };
            if let Err(error) = outcome {
                // Those that are under way end first, so that nothing of them is left when this returns.
                archives.give_up();
                failure.get_or_insert(error);
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        match closure.stuck() {
            None => Ok(()),
            Some(name) => Err(FetchError::Circle { name: name.clone() }),
        }
    }

    fn check_space(&self, name: &StoreName, store: &Store, needed: Bytes) -> Result<(), FetchError> {
        let most = self.settings.largest;
        if needed > most {
            let (found, most) = (needed.to_string(), most.to_string());
            return Err(FetchError::TooMuch { name: name.clone(), found, most });
        }
        let free = || Ok::<_, FetchError>(Bytes::new(store.free()?.get().saturating_sub(SPARED)));
        if needed > free()? {
            store.drop_partials();
        }
        let free = free()?;
        if needed > free {
            return Err(FetchError::NoSpace { name: name.clone(), needed, free });
        }
        Ok(())
    }
}

/// Puts everything into the store that can be put there now.
async fn publish_all(
    closure: &mut Closure,
    archives: &Archives,
    progress: &watch::Sender<Progress>,
) -> Result<(), FetchError> {
    while let Some(next) = closure.next_to_publish() {
        archives.publish(next).await?;
        progress.send_modify(|progress| progress.paths_done += 1);
    }
    Ok(())
}

impl Known {
    /// The address of its archive in the cache at `cache`.
    fn archive_at(&self, cache: &CacheUrl) -> String {
        format!("{cache}/{}", self.narinfo.url)
    }
}

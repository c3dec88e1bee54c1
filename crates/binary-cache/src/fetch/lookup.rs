//! What belongs to a path, and who vouches for it.

use std::path::Path;
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::task::{JoinSet, spawn_blocking};
use vm_model::StoreName;

use super::{FetchSettings, Fetcher, MOST_PATHS};
use crate::FetchError;
use crate::cache::{CacheUrl, Place};
use crate::closure::{Closure, Known};
use crate::http::{HttpClient, HttpError};
use crate::narinfo::{LONGEST, Narinfo};
use crate::staging::Staging;
use crate::store::Store;

/// Descriptions asked for at the same time.
const AT_ONCE: usize = 16;

/// Asks caches about paths of one store.
#[derive(Clone)]
pub(super) struct Lookup {
    settings: Arc<FetchSettings>,
    client: Arc<HttpClient>,
    store: Arc<Store>,
    staging: Arc<Staging>,
}

impl Lookup {
    pub(super) fn new(fetcher: &Fetcher, store: Arc<Store>, staging: Arc<Staging>) -> Self {
        Self { settings: fetcher.settings.clone(), client: fetcher.client.clone(), store, staging }
    }

    /// All that the store lacks of `name` and what it needs.
    pub(super) async fn closure(&self, name: &StoreName) -> Result<Closure, FetchError> {
        let mut closure = Closure::default();
        let mut noticed = closure.notice([name.clone()]);
        while !noticed.is_empty() {
            let (store, staging) = (self.store.clone(), self.staging.clone());
            let missing = spawn_blocking(move || store.missing(noticed, &staging)).await;
            let missing = missing.map_err(|_| FetchError::Panicked { name: name.clone() })??;
            noticed = Vec::new();
            for known in self.all(missing).await? {
                noticed.extend(closure.notice(known.narinfo.references.iter().cloned()));
                closure.add(known);
            }
            if closure.len() + noticed.len() > MOST_PATHS {
                let (found, most) = (format!("more than {MOST_PATHS} paths"), format!("{MOST_PATHS} paths"));
                return Err(FetchError::TooMuch { name: name.clone(), found, most });
            }
        }
        Ok(closure)
    }

    /// What the first cache of each that has it says of `names`.
    async fn all(&self, names: Vec<StoreName>) -> Result<Vec<Known>, FetchError> {
        let (mut asked, mut found) = (JoinSet::new(), Vec::new());
        for name in names {
            if asked.len() >= AT_ONCE {
                found.extend(next(&mut asked).await.transpose()?);
            }
            let lookup = self.clone();
            asked.spawn(async move { lookup.one(&name, 0).await });
        }
        while let Some(known) = next(&mut asked).await {
            found.push(known?);
        }
        Ok(found)
    }

    /// What the first cache that has it says of `name`, from cache number `from` on. One that cannot be asked or is not to be
    /// believed is passed over, and named only where no other has it.
    pub(super) async fn one(&self, name: &StoreName, from: usize) -> Result<Known, FetchError> {
        let mut failure = None;
        for (number, cache) in self.settings.caches.iter().enumerate().skip(from) {
            match self.ask(cache, name).await {
                Ok(Some(narinfo)) => return Ok(Known { narinfo, cache: number }),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%name, %cache, error = vm_model::error_chain(&error), "a binary cache is passed over");
                    // What may pass is told before what stays: the cache that did not answer may have it.
                    let may_pass = matches!(error, FetchError::Transport { .. });
                    if failure.is_none() || may_pass {
                        failure = Some(error);
                    }
                }
            }
        }
        let caches = self.settings.caches.iter().map(CacheUrl::to_string).collect::<Vec<_>>().join(", ");
        Err(failure.unwrap_or_else(|| FetchError::NotThere { name: name.clone(), caches }))
    }

    async fn ask(&self, cache: &CacheUrl, name: &StoreName) -> Result<Option<Narinfo>, FetchError> {
        let file = format!("{}.narinfo", name.hash_part());
        let url = format!("{cache}/{file}");
        let text = match &cache.0 {
            Place::Http(place) => self.client.get_small(&place.below(&file), LONGEST).await,
            Place::Directory(path) => read_small(path, &file).await,
        };
        let Some(text) = text.map_err(|source| FetchError::Transport { url, source })? else {
            return Ok(None);
        };
        self.believe(cache, name, &text).map(Some)
    }

    /// What `text` says of `name`, where it is about that path of this store and signed by somebody who is trusted.
    fn believe(&self, cache: &CacheUrl, name: &StoreName, text: &[u8]) -> Result<Narinfo, FetchError> {
        let narinfo = Narinfo::parse(text).map_err(|source| FetchError::Description {
            cache: cache.to_string(),
            name: name.clone(),
            source,
        })?;
        if narinfo.name != *name || Path::new(&narinfo.store) != self.store.path() {
            let wanted = self.store.path().join(name.as_str()).display().to_string();
            let found = format!("{}/{}", narinfo.store, narinfo.name);
            return Err(FetchError::OtherPath { cache: cache.to_string(), wanted, found });
        }
        let (keys, fingerprint) = (&self.settings.trusted_keys, narinfo.fingerprint());
        let mut signatures = narinfo.signatures.iter();
        if signatures.any(|signature| keys.iter().any(|key| key.has_signed(&fingerprint, signature))) {
            return Ok(narinfo);
        }
        let signed_by =
            listed(narinfo.signatures.iter().map(|signature| vm_model::shown_text(&signature.key)));
        let trusted = listed(keys.iter().map(|key| key.name().to_owned()));
        Err(FetchError::Untrusted { cache: cache.to_string(), name: name.clone(), signed_by, trusted })
    }
}

/// The next answer, where any is awaited.
async fn next(asked: &mut JoinSet<Result<Known, FetchError>>) -> Option<Result<Known, FetchError>> {
    match asked.join_next().await? {
        Ok(known) => Some(known),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Nobody aborts one of them; if so, the path is found missing when it is wanted.
        Err(_) => None,
    }
}

async fn read_small(directory: &Path, name: &str) -> Result<Option<Bytes>, HttpError> {
    use tokio::io::AsyncReadExt;
    let file = match tokio::fs::File::open(directory.join(name)).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let is_there = tokio::fs::metadata(directory).await.is_ok();
            return if is_there { Ok(None) } else { Err(HttpError::NoDirectory(directory.to_owned())) };
        }
        Err(error) => return Err(HttpError::File(error)),
    };
    let mut text = Vec::new();
    // One byte more than is accepted shows that there is too much.
    file.take(LONGEST as u64 + 1).read_to_end(&mut text).await.map_err(HttpError::File)?;
    Ok(Some(text.into()))
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

//! One path's archive: downloaded, decompressed, hashed and unpacked in one stream beside the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use vm_model::{NarHash, StoreName};

use super::lookup::Lookup;
use super::{FetchSettings, Fetcher, Progress};
use crate::FetchError;
use crate::cache::Place;
use crate::closure::Known;
use crate::download::{ArchiveReader, GivenUp, is_given_up};
use crate::http::{HttpClient, HttpError};
use crate::nar::{NarFormatError, unpack};
use crate::narinfo::Narinfo;
use crate::store::{Staging, Store};

/// How many bytes come between two words of progress.
const PROGRESS_STEP: u64 = 1 << 20;
/// How much longer than its content a compressed archive may be, beside a sixteenth.
const COMPRESSED_MARGIN: u64 = 1 << 20;

/// The archives of one fetch.
pub(super) struct Archives {
    settings: Arc<FetchSettings>,
    client: Arc<HttpClient>,
    lookup: Lookup,
    store: Arc<Store>,
    staging: Arc<Staging>,
    progress: watch::Sender<Progress>,
    given_up: watch::Sender<bool>,
}

impl Archives {
    pub(super) fn new(
        fetcher: &Fetcher,
        store: Arc<Store>,
        progress: watch::Sender<Progress>,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            settings: fetcher.settings.clone(),
            client: fetcher.client.clone(),
            lookup: Lookup::new(fetcher, store.clone()),
            staging: Arc::new(store.stage()?),
            store,
            progress,
            given_up: watch::Sender::new(false),
        })
    }

    /// Has everything that is under way end with an error soon. So does dropping this.
    pub(super) fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// Unpacks what `known` describes, from its cache or from a later one that has the same.
    pub(super) async fn get(&self, mut known: Known) -> Result<Narinfo, FetchError> {
        loop {
            let failure = match self.attempt(&known).await {
                Ok(()) => return Ok(known.narinfo),
                Err(failure) if *self.given_up.borrow() => return Err(failure),
                Err(failure) => failure,
            };
            let is_the_caches =
                matches!(failure, FetchError::Archive { .. } | FetchError::NotWhatWasSigned { .. });
            let name = &known.narinfo.name;
            match self.lookup.one(name, known.cache + 1).await {
                Ok(other) if is_the_caches && other.narinfo.nar_hash == known.narinfo.nar_hash => {
                    tracing::warn!(%name, error = vm_model::error_chain(&failure), "another binary cache is tried");
                    known = other;
                }
                Ok(_) | Err(_) => return Err(failure),
            }
        }
    }

    /// Puts a path that was unpacked, and all of whose references are there, into the store.
    pub(super) async fn publish(&self, narinfo: Narinfo) -> Result<(), FetchError> {
        let (store, staging, name) = (self.store.clone(), self.staging.clone(), narinfo.name.clone());
        let published = spawn_blocking(move || store.publish(&staging, &narinfo)).await;
        Ok(published.map_err(|_| FetchError::Panicked { name })??)
    }

    async fn attempt(&self, known: &Known) -> Result<(), FetchError> {
        let (narinfo, cache) = (known.narinfo.clone(), &self.settings.caches[known.cache]);
        let url = known.archive_at(cache);
        let reader = match &cache.0 {
            Place::Http(place) => {
                let place = place.below(&narinfo.url);
                let given_up = self.given_up.subscribe();
                ArchiveReader::download(self.client.clone(), place, narinfo.file_size, given_up)
            }
            Place::Directory(path) => ArchiveReader::open(&path.join(&narinfo.url)).map_err(|error| {
                FetchError::Transport { url: url.clone(), source: HttpError::File(error) }
            })?,
        };
        let (store, staging, name) = (self.store.clone(), self.staging.clone(), narinfo.name.clone());
        let watched = Watched { progress: self.progress.clone(), given_up: self.given_up.subscribe() };
        let unpacking = spawn_blocking(move || receive(reader, &narinfo, &url, (&store, &staging), &watched));
        unpacking.await.map_err(|_| FetchError::Panicked { name })?
    }
}

/// How a thread that unpacks is seen, and told to end.
struct Watched {
    progress: watch::Sender<Progress>,
    given_up: GivenUp,
}

/// Reads the archive to its end and has it beside the store, where it is what was signed.
fn receive(
    reader: ArchiveReader,
    narinfo: &Narinfo,
    url: &str,
    (store, staging): (&Store, &Staging),
    watched: &Watched,
) -> Result<(), FetchError> {
    let wrong = |source| FetchError::Archive { url: url.to_owned(), source };
    staging.clear(&narinfo.name)?;
    // What compresses to more than it holds is none; without an end a stranger could keep this thread busy for ever.
    let most = narinfo.nar_size.saturating_add(narinfo.nar_size / 16).saturating_add(COMPRESSED_MARGIN);
    let decompressed = narinfo
        .compression
        .reader(reader.take(most))
        .map_err(|source| wrong(NarFormatError::Read { offset: 0, source }))?;
    let mut archive = Archive::new(decompressed, narinfo.nar_size, watched);
    let outcome = if store.is_kept_by_nix() {
        keep(&mut archive, staging, &narinfo.name)
    } else {
        unpack(&mut archive, staging.as_fd(), narinfo.name.as_str())
    };
    outcome.map_err(wrong)?;
    let (found, size) = archive.finish();
    if found == narinfo.nar_hash && size == narinfo.nar_size {
        return Ok(());
    }
    let (expected, signed_size) = (narinfo.nar_hash, narinfo.nar_size);
    Err(FetchError::NotWhatWasSigned { url: url.to_owned(), found, size, expected, signed_size })
}

/// Keeps the archive as it is, for Nix.
fn keep(archive: &mut impl Read, staging: &Staging, name: &StoreName) -> Result<(), NarFormatError> {
    let failed =
        |operation| move |source| NarFormatError::Write { operation, path: name.to_string(), source };
    let mut file: File = staging.create(name).map_err(failed("make the file"))?;
    io::copy(archive, &mut file).map_err(failed("receive"))?;
    Ok(())
}

/// An archive that is hashed while it is read, and ends with an error where more comes than was signed.
struct Archive<'watched, R> {
    source: R,
    digest: Sha256,
    read: u64,
    most: u64,
    told: u64,
    watched: &'watched Watched,
}

impl<'watched, R: Read> Archive<'watched, R> {
    fn new(source: R, most: u64, watched: &'watched Watched) -> Self {
        Self { source, digest: Sha256::new(), read: 0, most, told: 0, watched }
    }

    fn finish(mut self) -> (NarHash, u64) {
        self.tell();
        (NarHash::new(self.digest.finalize_reset().into()), self.read)
    }

    fn tell(&mut self) {
        let more = self.read - self.told;
        let add = |progress: &mut Progress| progress.bytes_done = progress.bytes_done.saturating_add(more);
        self.watched.progress.send_modify(add);
        self.told = self.read;
    }
}

impl<R: Read> Read for Archive<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_given_up(&self.watched.given_up) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the fetch was given up"));
        }
        let count = self.source.read(buffer)?;
        self.digest.update(&buffer[..count]);
        self.read += count as u64;
        if self.read > self.most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than what was signed"));
        }
        if self.read - self.told >= PROGRESS_STEP {
            self.tell();
        }
        Ok(count)
    }
}

impl<R> Drop for Archive<'_, R> {
    /// What came of an archive that was given up does not count.
    fn drop(&mut self) {
        let told = self.told;
        if self.read < self.most {
            let take_away =
                |progress: &mut Progress| progress.bytes_done = progress.bytes_done.saturating_sub(told);
            self.watched.progress.send_modify(take_away);
        }
    }
}

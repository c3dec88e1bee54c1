//! One path's archive: downloaded, decompressed, hashed and unpacked in one stream beside the store.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use vm_model::{NarHash, StoreName};

use super::lookup::Lookup;
use super::{FetchSettings, Fetcher, Progress};
use crate::allowance::Allowance;
use crate::cache::{CacheUrl, Place};
use crate::closure::Known;
use crate::compression::Compression;
use crate::download::{ArchiveReader, GivenUp, is_given_up};
use crate::http::{HttpClient, HttpError};
use crate::nar::{NarFormatError, unpack};
use crate::narinfo::Narinfo;
use crate::partial::{Kept, KeptReader, Partial};
use crate::piped::{PieceSender, piped};
use crate::staging::Staging;
use crate::store::Store;
use crate::{Damage, FetchError};

/// How much of an archive that stays one is written at once.
const COPIED_AT_ONCE: usize = 256 << 10;
/// How many bytes come between two words of progress.
const PROGRESS_STEP: u64 = 1 << 20;

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
        lookup: Lookup,
        store: Arc<Store>,
        staging: Arc<Staging>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        Self {
            settings: fetcher.settings.clone(),
            client: fetcher.client.clone(),
            lookup,
            store,
            staging,
            progress,
            given_up: watch::Sender::new(false),
        }
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
            let is_the_caches = matches!(failure, FetchError::Damaged { .. } | FetchError::Transport { .. });
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
        let (narinfo, cache) = (known.narinfo.clone(), self.settings.caches[known.cache].clone());
        let name = narinfo.name.clone();
        let receiving = Receiving {
            url: known.archive_at(&cache),
            narinfo,
            cache,
            client: self.client.clone(),
            store: self.store.clone(),
            staging: self.staging.clone(),
            watched: Watched { progress: self.progress.clone(), given_up: self.given_up.subscribe() },
        };
        let unpacking = spawn_blocking(move || receiving.run());
        unpacking.await.map_err(|_| FetchError::Panicked { name })?
    }
}

/// How a thread that unpacks is seen, and told to end.
struct Watched {
    progress: watch::Sender<Progress>,
    given_up: GivenUp,
}

/// One archive that is received, on a thread that may block, of a runtime.
struct Receiving {
    narinfo: Narinfo,
    cache: CacheUrl,
    url: String,
    client: Arc<HttpClient>,
    store: Arc<Store>,
    staging: Arc<Staging>,
    watched: Watched,
}

impl Receiving {
    /// Has the archive beside the store, where it is what was signed. What came of one that was cut short is kept.
    fn run(&self) -> Result<(), FetchError> {
        let partial = match &self.cache.0 {
            Place::Http(_) => self.store.partial(&self.narinfo, &self.url),
            Place::Directory(_) => None,
        };
        let mut kept = Kept { partial, failure: None };
        loop {
            let length = kept.length();
            if length > 0 {
                tracing::info!(name = %self.narinfo.name, from = length, "a download goes on where an earlier one ended");
            }
            let outcome = self.receive(&mut kept);
            match outcome {
                // It may be the beginning that is wrong.
                Err(error) if length > 0 && may_be_the_beginning(&error) => {
                    tracing::info!(name = %self.narinfo.name, error = vm_model::error_chain(&error), "the download begins anew");
                    kept.partial.iter_mut().for_each(Partial::restart);
                }
                Err(error @ FetchError::Transport { .. }) => return Err(error),
                Err(error) if is_given_up(&self.watched.given_up) => return Err(error),
                outcome => {
                    kept.remove();
                    return outcome;
                }
            }
        }
    }

    /// Reads the archive to its end.
    fn receive(&self, kept: &mut Kept) -> Result<(), FetchError> {
        let narinfo = &self.narinfo;
        self.staging.clear(&narinfo.name)?;
        let reader = self.reader(kept.length())?;
        let unpacked = self.unpack(KeptReader::new(kept, reader));
        let (found, size) = match (unpacked, kept.failure.take()) {
            (Ok(found), _) => found,
            (Err(_), Some(source)) => return Err(FetchError::Transport { url: self.url.clone(), source }),
            (Err(source @ NarFormatError::Write { .. }), None) => {
                return Err(FetchError::Unwritable { name: narinfo.name.clone(), source });
            }
            (Err(source), None) => return Err(self.damaged(Damage::Form(source))),
        };
        let (expected, signed_size) = (narinfo.nar_hash, narinfo.nar_size);
        if found == expected && size == signed_size {
            return Ok(());
        }
        Err(self.damaged(Damage::Content { found, size, expected, signed_size }))
    }

    fn reader(&self, from: u64) -> Result<ArchiveReader, FetchError> {
        let narinfo = &self.narinfo;
        match &self.cache.0 {
            Place::Http(place) => {
                let (client, place) = (self.client.clone(), place.below(&narinfo.url));
                let span = (from, narinfo.file_size);
                Ok(ArchiveReader::download(client, place, span, self.watched.given_up.clone()))
            }
            Place::Directory(path) => ArchiveReader::open(&path.join(&narinfo.url)).map_err(|error| {
                FetchError::Transport { url: self.url.clone(), source: HttpError::File(error) }
            }),
        }
    }

    /// Decompresses, hashes and unpacks what `stored` has; the hash and the size of what it holds.
    fn unpack(&self, stored: impl Read + Send) -> Result<(NarHash, u64), NarFormatError> {
        let compression = self.narinfo.compression;
        // Nothing is worked out of it that would be worth a thread.
        if compression == Compression::None {
            return self.unpack_plain(BufReader::with_capacity(COPIED_AT_ONCE, stored));
        }
        let decompress = |sender: &mut PieceSender| {
            let given = Cell::new(0);
            match compression.reader(Allowance::new(stored, &given)) {
                Ok(decompressed) => sender.pass_on(decompressed, |count| given.set(count)),
                Err(error) => sender.fail(error),
            }
        };
        let unpacked = piped(decompress, |plain| self.unpack_plain(plain));
        unpacked.unwrap_or_else(|source| Err(NarFormatError::Read { offset: 0, source }))
    }

    /// Hashes and unpacks `plain`; its hash and its size.
    fn unpack_plain(&self, plain: impl Read) -> Result<(NarHash, u64), NarFormatError> {
        let narinfo = &self.narinfo;
        let mut archive = Archive::new(plain, narinfo.nar_size, &self.watched);
        if self.store.is_kept_by_nix() {
            keep(&mut archive, &self.staging, &narinfo.name)?;
        } else {
            unpack(&mut archive, self.staging.as_fd(), narinfo.name.as_str())?;
        }
        Ok(archive.finish())
    }

    fn damaged(&self, damage: Damage) -> FetchError {
        let source = Box::new(damage);
        let (name, cache) = (self.narinfo.name.clone(), self.cache.to_string());
        FetchError::Damaged { name, cache, source }
    }
}

/// Whether a download that goes on may fail so for what was there of it before.
fn may_be_the_beginning(error: &FetchError) -> bool {
    let is_other_range = |source: &HttpError| matches!(source, HttpError::Status(206 | 416));
    match error {
        FetchError::Damaged { .. } => true,
        FetchError::Transport { source, .. } => is_other_range(source),
        _ => false,
    }
}

/// Keeps the archive as it is, for Nix.
fn keep(archive: &mut impl Read, staging: &Staging, name: &StoreName) -> Result<(), NarFormatError> {
    let failed =
        |operation| move |source| NarFormatError::Write { operation, path: name.to_string(), source };
    let mut file: File = staging.create(name).map_err(failed("make"))?;
    let (mut buffer, mut offset) = (vec![0; COPIED_AT_ONCE], 0);
    loop {
        let count = archive.read(&mut buffer).map_err(|source| NarFormatError::Read { offset, source })?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..count]).map_err(failed("write"))?;
        offset += count as u64;
    }
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

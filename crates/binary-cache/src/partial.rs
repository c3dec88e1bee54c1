//! The beginning of an archive as it comes from a cache, kept on disk until the archive is whole: a download that is cut short,
//! also by the end of its process, goes on from there. Its content is believed no more than what comes by the network.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use rustix::fs::fstatvfs;
use sha2::{Digest, Sha256};

use crate::fetch::SPARED;
use crate::http::HttpError;
use crate::narinfo::Narinfo;
use crate::staging::StagingRoot;
use crate::store::StoreError;

/// A shorter archive comes again as quickly as it is kept.
const WORTH_KEEPING: u64 = 1 << 20;
/// After how many more bytes it is looked whether the disk has room for what is kept, beside what it unpacks to.
const LOOK_EVERY: u64 = 1 << 20;

/// What came of an archive. Locked; stays where it is when dropped, unless it is empty, until it is swept by age.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    /// How many bytes it had when it was opened.
    length: u64,
    /// How many bytes may come until it is looked for room.
    until_look: u64,
}

impl Partial {
    /// What came of the archive at `url` that `narinfo` describes; empty where nothing did. `None` where another fetch has it
    /// or it is not worth it.
    pub(crate) fn open(root: &StagingRoot, narinfo: &Narinfo, url: &str) -> Result<Option<Self>, StoreError> {
        if narinfo.file_size.unwrap_or(narinfo.nar_size) < WORTH_KEEPING {
            return Ok(None);
        }
        let Some((path, file)) = root.partial(&file_name(narinfo, url))? else { return Ok(None) };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let mut partial = Self { path, file, length, until_look: 0 };
        if narinfo.file_size.is_some_and(|size| partial.length > size) {
            partial.restart();
        }
        Ok(Some(partial))
    }

    /// How many bytes there are to begin with.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Keeps `bytes`, too. The archive is what the disk has room for first: what is kept of it gives way.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = bytes.len() as u64;
        if self.until_look < count {
            let filled = fstatvfs(&self.file)?;
            if filled.f_bavail.saturating_mul(filled.f_frsize) < SPARED {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the disk has room for the store path alone",
                ));
            }
            self.until_look = LOOK_EVERY + count;
        }
        self.until_look -= count;
        self.file.write_all(bytes)
    }

    /// Forgets what is there. Dropped then, nothing is left of it.
    pub(crate) fn restart(&mut self) {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        self.length = 0;
        if let Err(error) = emptied {
            tracing::warn!(path = %self.path.display(), %error, "what came of an archive cannot be forgotten");
        }
    }
}

impl Drop for Partial {
    /// Nothing came, or all was removed: nothing is left to go on from.
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Each archive has its own. Another one under the same address would be noticed by its hash, at the latest.
fn file_name(narinfo: &Narinfo, url: &str) -> String {
    let digest = Sha256::digest(format!("{}\n{url}\n{:?}", narinfo.nar_hash, narinfo.file_size));
    format!("{}-{}", narinfo.name.hash_part(), data_encoding::HEXLOWER.encode(&digest[..16]))
}

/// An archive as it is stored: first what is kept of it, then what `source` has, which is kept, too.
pub(crate) struct KeptReader<'kept, R> {
    kept: &'kept mut Kept,
    replayed: u64,
    source: R,
}

/// What a [`KeptReader`] leaves.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) partial: Option<Partial>,
    /// Why no more came, where that is the cache's doing or the network's.
    pub(crate) failure: Option<HttpError>,
}

impl Kept {
    /// How many bytes are there to begin with.
    pub(crate) fn length(&self) -> u64 {
        self.partial.as_ref().map_or(0, Partial::length)
    }

    /// Removes what is there of the archive.
    pub(crate) fn remove(&mut self) {
        if let Some(mut partial) = self.partial.take() {
            partial.restart();
        }
    }
}

impl<'kept, R> KeptReader<'kept, R> {
    /// `source` begins where what is kept ends.
    pub(crate) fn new(kept: &'kept mut Kept, source: R) -> Self {
        Self { kept, replayed: 0, source }
    }
}

impl<R: Read> Read for KeptReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(partial) = &mut self.kept.partial
            && self.replayed < partial.length
        {
            let most =
                usize::try_from(partial.length - self.replayed).unwrap_or(usize::MAX).min(buffer.len());
            let count = partial.file.read(&mut buffer[..most])?;
            if count == 0 && most > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.replayed += count as u64;
            return Ok(count);
        }
        let count = self.source.read(buffer).map_err(|error| match error.downcast::<HttpError>() {
            Ok(failure) => {
                self.kept.failure = Some(failure);
                io::Error::other("no more comes from the cache")
            }
            Err(error) => error,
        })?;
        if let Some(partial) = &mut self.kept.partial
            && let Err(error) = partial.append(&buffer[..count])
        {
            // The archive is unpacked as long as there is room for that.
            tracing::warn!(path = %partial.path.display(), %error, "a download that is cut short will begin anew");
            self.kept.remove();
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Reads `bytes` of an archive that is kept on a file system of `size` bytes; whether it is still kept.
    fn is_kept_on(size: u64, bytes: u64) -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "partial"]).arg(directory.path());
        assert!(mount.status().expect("it runs").success(), "these tests are run as root");
        let path = directory.path().join("kept");
        let file = File::create_new(&path).expect("made");
        let mut kept =
            Kept { partial: Some(Partial { path, file, length: 0, until_look: 0 }), failure: None };
        let read = io::copy(&mut KeptReader::new(&mut kept, io::repeat(7).take(bytes)), &mut io::sink());
        assert_eq!(read.expect("all is read"), bytes);
        let is_kept = kept.partial.is_some();
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), usize::from(is_kept));
        drop(kept);
        assert!(Command::new("umount").arg(directory.path()).status().expect("it runs").success());
        is_kept
    }

    #[test]
    fn what_is_kept_of_an_archive_gives_way_to_what_it_unpacks_to() {
        assert!(is_kept_on(SPARED + (16 << 20), 8 << 20));
        assert!(!is_kept_on(SPARED + (4 << 20), 8 << 20));
    }
}

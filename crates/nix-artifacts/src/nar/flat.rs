//! Whether a hash that does not fit is that of a file: what `sha256sum` and `nix hash file` print, taken for the hash of
//! the store path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, OFlags, fstat};
use sha2::{Digest, Sha256};
use vm_model::NarHash;

use super::NarProgress;
use crate::store::open_component;

/// Bytes read at a time.
const BUFFER_SIZE: usize = 256 << 10;
/// Files of a directory that are tried: artifacts have a handful.
const MAX_FILES: usize = 64;

/// The file whose SHA-256 is `hash`: `name` in `directory` itself, or one directly below it. It is a guess to help with:
/// what cannot be read is passed over, and `progress` ends it.
pub(super) fn file_with_hash(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    hash: &NarHash,
    progress: &mut NarProgress<'_>,
) -> Option<PathBuf> {
    let opened = open_component(directory, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
    match FileType::from_raw_mode(fstat(&opened).ok()?.st_mode) {
        FileType::RegularFile => {
            (sha256(File::from(opened), progress)? == hash.digest()).then(|| path.to_owned())
        }
        FileType::Directory => {
            let names = Dir::read_from(&opened).ok()?.filter_map(Result::ok);
            let names = names.filter(|entry| entry.file_type() == FileType::RegularFile);
            let names = names.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()));
            for name in names.take(MAX_FILES) {
                let found = open_component(opened.as_fd(), &name, OFlags::RDONLY | OFlags::NONBLOCK);
                let digest = found.ok().and_then(|file| sha256(File::from(file), progress));
                if digest == Some(hash.digest()) {
                    return Some(path.join(name));
                }
            }
            None
        }
        _ => None,
    }
}

fn sha256(mut file: File, progress: &mut NarProgress<'_>) -> Option<[u8; 32]> {
    let (mut digest, mut buffer, mut hashed) = (Sha256::new(), vec![0; BUFFER_SIZE], 0);
    loop {
        let count = file.read(&mut buffer).ok()?;
        if count == 0 {
            return Some(digest.finalize().into());
        }
        digest.update(&buffer[..count]);
        hashed += count as u64;
        if progress(hashed).is_break() {
            return None;
        }
    }
}

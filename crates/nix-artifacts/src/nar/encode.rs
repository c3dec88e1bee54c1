//! The tokens of the archive format. Which files there are is left to [`super::tree`].
//!
//! Everything is a string: its length as 64 bits little-endian, its bytes, zeroes up to a multiple of eight
//! (Dolstra, "The Purely Functional Software Deployment Model", §5.2.1).

use sha2::{Digest, Sha256};
use vm_model::NarHash;

/// Strings are padded to a multiple of this.
const ALIGNMENT: u64 = 8;

/// An archive being hashed.
pub(super) struct NarEncoder {
    digest: Sha256,
}

impl NarEncoder {
    /// An archive of which nothing but the header is written.
    pub(super) fn new() -> Self {
        let mut encoder = Self { digest: Sha256::new() };
        encoder.string(b"nix-archive-1");
        encoder
    }

    /// A symbolic link that says `target`.
    pub(super) fn symlink(&mut self, target: &[u8]) {
        self.strings(&[b"(", b"type", b"symlink", b"target", target, b")"]);
    }

    /// Opens a regular file of `size` bytes; they follow through [`NarEncoder::content`].
    pub(super) fn begin_file(&mut self, executable: bool, size: u64) {
        self.strings(&[b"(", b"type", b"regular"]);
        if executable {
            self.strings(&[b"executable", b""]);
        }
        self.string(b"contents");
        self.digest.update(size.to_le_bytes());
    }

    /// The next bytes of the open file.
    pub(super) fn content(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The next bytes of the open file, `length` zeroes.
    pub(super) fn zeroes(&mut self, length: u64) {
        const ZEROES: [u8; 16 << 10] = [0; 16 << 10];
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
            self.digest.update(&ZEROES[..count]);
            left -= count as u64;
        }
    }

    /// Closes the regular file of `size` bytes.
    pub(super) fn end_file(&mut self, size: u64) {
        self.pad(size);
        self.string(b")");
    }

    /// Opens a directory.
    pub(super) fn begin_directory(&mut self) {
        self.strings(&[b"(", b"type", b"directory"]);
    }

    /// Opens the entry `name`; entries come in the order of their names' bytes, each followed by its node.
    pub(super) fn begin_entry(&mut self, name: &[u8]) {
        self.strings(&[b"entry", b"(", b"name", name, b"node"]);
    }

    /// Closes an entry.
    pub(super) fn end_entry(&mut self) {
        self.string(b")");
    }

    /// Closes a directory.
    pub(super) fn end_directory(&mut self) {
        self.string(b")");
    }

    /// The hash of the whole archive.
    pub(super) fn finish(self) -> NarHash {
        NarHash::new(self.digest.finalize().into())
    }

    fn strings(&mut self, strings: &[&[u8]]) {
        for string in strings {
            self.string(string);
        }
    }

    fn string(&mut self, bytes: &[u8]) {
        // A length in memory always fits 64 bits.
        let length = bytes.len() as u64;
        self.digest.update(length.to_le_bytes());
        self.digest.update(bytes);
        self.pad(length);
    }

    fn pad(&mut self, length: u64) {
        const ZEROES: [u8; 8] = [0; 8];
        let missing = (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT;
        self.digest.update(ZEROES.split_at(usize::try_from(missing).unwrap_or(0)).0);
    }
}

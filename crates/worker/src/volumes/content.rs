//! What tells one image from another: a digest of its bytes that passes over holes.
//!
//! Blocks of 1 MiB are hashed one by one, then their hashes. A hole's block has the hash of zeros, which is known without
//! reading: a sparse image is told apart at the cost of its data.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::supervisor::GivenUp;

const BLOCK: u64 = 1 << 20;
/// What the digest begins with: another way to compute it would say otherwise.
const SCHEME: &[u8] = b"procurator image 1\n";

/// An image's content, and the file in which it was seen last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageContent {
    /// Equal for files of equal bytes.
    pub(crate) digest: String,
    /// A file that is still this one need not be read again.
    pub(crate) seen_in: SeenFile,
}

/// The file in which a content was seen, as its file system tells it from others and from its own earlier states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenFile {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl SeenFile {
    /// How large it is, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl ImageContent {
    /// Whether `image` is the file in which this content was seen, unchanged since.
    pub(crate) fn is_still(&self, image: &File) -> bool {
        SeenFile::of(image).is_ok_and(|identity| identity == self.seen_in)
    }

    /// The content of `image`; `known`, where the file is the one in which that was seen, is taken at its word.
    ///
    /// # Errors
    /// The image cannot be read, changed meanwhile, or the work was given up.
    pub(crate) fn of(image: &File, known: Option<&Self>, given_up: &GivenUp) -> io::Result<Self> {
        let seen_in = SeenFile::of(image)?;
        if let Some(known) = known.filter(|known| known.seen_in == seen_in) {
            return Ok(known.clone());
        }
        let digest = digest(image, seen_in.size, given_up)?;
        if SeenFile::of(image)? != seen_in {
            return Err(io::Error::other("the image changed while it was read"));
        }
        Ok(Self { digest, seen_in })
    }
}

fn digest(image: &File, size: u64, given_up: &GivenUp) -> io::Result<String> {
    let mut digest = ImageDigest::new(size);
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or(usize::MAX)];
    let mut offset = 0;
    let mut next_data = 0;
    while offset < size {
        if let ControlFlow::Break(()) = given_up.flow() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "comparing the image was given up"));
        }
        let length = BLOCK.min(size - offset);
        if next_data <= offset {
            next_data = data_at_or_after(image, offset, size)?;
        }
        if length == BLOCK && next_data >= offset + length {
            digest.zeros(length);
        } else {
            let block = &mut buffer[..usize::try_from(length).unwrap_or(usize::MAX)];
            image.read_exact_at(block, offset)?;
            digest.data(block);
        }
        offset += length;
    }
    Ok(digest.finish())
}

/// The digest of an image whose content comes piece by piece.
pub(super) struct ImageDigest {
    whole: Sha256,
    block: Sha256,
    /// How much of the present block has come.
    filled: u64,
    /// The hash of a block of zeros.
    hole: [u8; 32],
}

impl ImageDigest {
    /// Of an image of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let mut whole = Sha256::new();
        whole.update(SCHEME);
        whole.update(size.to_le_bytes());
        let hole = Sha256::digest(vec![0; usize::try_from(BLOCK).unwrap_or(usize::MAX)]).into();
        Self { whole, block: Sha256::new(), filled: 0, hole }
    }

    /// The next bytes.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let room = usize::try_from(BLOCK - self.filled).unwrap_or(usize::MAX).min(left.len());
            let (now, later) = left.split_at(room);
            self.block.update(now);
            self.went_on(now.len() as u64);
            left = later;
        }
    }

    /// The next `length` bytes, which are zeros.
    pub(super) fn zeros(&mut self, length: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = length;
        while left > 0 {
            if self.filled == 0 && left >= BLOCK {
                self.whole.update(self.hole);
                left -= BLOCK;
            } else {
                let room = (BLOCK - self.filled).min(left).min(ZEROS.len() as u64);
                self.block.update(&ZEROS[..usize::try_from(room).unwrap_or(0)]);
                self.went_on(room);
                left -= room;
            }
        }
    }

    fn went_on(&mut self, length: u64) {
        self.filled += length;
        if self.filled == BLOCK {
            self.filled = 0;
            self.whole.update(self.block.finalize_reset());
        }
    }

    /// The digest, as text.
    pub(super) fn finish(mut self) -> String {
        if self.filled > 0 {
            self.whole.update(self.block.finalize());
        }
        data_encoding::HEXLOWER.encode(&self.whole.finalize())
    }
}

/// Where the next data lies; `size` where only a hole is left.
fn data_at_or_after(image: &File, offset: u64, size: u64) -> io::Result<u64> {
    match seek(image, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(size),
        // The file system cannot tell: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use super::*;

    fn image(directory: &Path, name: &str, size: u64, parts: &[(u64, &[u8])]) -> File {
        let options = OpenOptions::new().read(true).write(true).create_new(true).clone();
        let file = options.open(directory.join(name)).expect("created");
        file.set_len(size).expect("sized");
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).expect("written");
        }
        file
    }

    fn digest_of(file: &File) -> String {
        ImageContent::of(file, None, &GivenUp::default()).expect("read").digest
    }

    #[test]
    fn holes_and_written_zeros_are_the_same_content() {
        let folder = tempfile::tempdir().expect("a directory");
        let size = (5 << 20) + 512;
        let zeros = vec![0; 2 << 20];
        let sparse = image(folder.path(), "sparse", size, &[(3 << 20, b"x")]);
        let full =
            image(folder.path(), "full", size, &[(0, &zeros), (3 << 20, b"x"), (4 << 20, &zeros[..512])]);
        let other = image(folder.path(), "other", size, &[((3 << 20) + 1, b"x")]);
        let longer = image(folder.path(), "longer", size + 512, &[(3 << 20, b"x")]);
        assert_eq!(digest_of(&sparse), digest_of(&full));
        assert_ne!(digest_of(&sparse), digest_of(&other));
        assert_ne!(digest_of(&sparse), digest_of(&longer));
    }

    #[test]
    fn a_digest_does_not_depend_on_the_pieces() {
        let folder = tempfile::tempdir().expect("a directory");
        let size = (5 << 20) + 512;
        let file = image(folder.path(), "image", size, &[(0, b"head"), ((3 << 20) + 7, b"x")]);
        let mut pieces = ImageDigest::new(size);
        pieces.data(b"he");
        pieces.data(b"ad");
        pieces.zeros((3 << 20) + 7 - 4);
        pieces.data(b"x");
        pieces.data(&vec![0; 1 << 20]);
        pieces.zeros(size - (4 << 20) - 8);
        assert_eq!(pieces.finish(), digest_of(&file));
    }

    #[test]
    fn a_file_that_was_seen_is_not_read_again_until_it_changes() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = image(folder.path(), "image", 4096, &[(0, b"one")]);
        let true_content = ImageContent::of(&file, None, &GivenUp::default()).expect("read");
        let claimed = ImageContent { digest: "claimed".into(), ..true_content.clone() };
        let again = ImageContent::of(&file, Some(&claimed), &GivenUp::default()).expect("known");
        assert_eq!(again.digest, "claimed");
        file.write_all_at(b"two", 0).expect("written");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
        let changed = ImageContent::of(&file, Some(&claimed), &GivenUp::default()).expect("read");
        assert!(![claimed.digest, true_content.digest].contains(&changed.digest));
    }

    #[test]
    fn a_huge_hole_costs_no_reading_and_can_be_given_up() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = image(folder.path(), "image", 1 << 36, &[(0, b"head")]);
        let given_up = GivenUp::default();
        ImageContent::of(&file, None, &given_up).expect("64 GiB of nothing are quick");
        given_up.set();
        let error = ImageContent::of(&file, None, &given_up).expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}

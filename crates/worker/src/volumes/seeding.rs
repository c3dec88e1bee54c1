//! Making the first content of a volume of its image's pieces, as they are hashed: one read for both.
//!
//! ```text
//! hashing thread ── pieces (bounded) ──► thread "seed-<vm>" ── <number>.staged
//!                                          └── digest of the image's content
//! ```
//!
//! What comes of it counts only when the hash was found right. Where it comes to nothing (the path was hashed for another
//! VM, the disk is slower than the hashing while others wait for it, there is no space), [`VolumeStore::stage`] copies the
//! image as it always can.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use fail_points::{FailPoint, pass};
use nix_artifacts::{FEED_DEPTH, Piece};
use rustix::fs::ioctl_ficlone;
use vm_model::{Bytes, VmId, VolumePolicy};

use super::content::{ImageContent, ImageDigest, SeenFile};
use super::copy::{check_space, create_anew};
use super::decide::{Decision, VolumeWish, decide};
use super::record::VolumeRecord;
use super::staged_file::{StagedFile, remove_empty_directories};
use super::staging::StageRequest;
use super::store::VolumeStore;

/// Zeros of this length and alignment become holes.
const HOLE: usize = 64 << 10;
/// Images whose contents are remembered, so that a second VM of an image need not read it to know it.
const MAX_IMAGES: usize = 64;

/// A content that is being made.
#[derive(Debug)]
pub(crate) struct Seeding {
    disk: String,
    number: u64,
    /// Absent where only the digest is wanted. Dropping it deletes the file.
    file: Option<StagedFile>,
    image: SeenFile,
    /// Ends with the pieces; answers the digest, where that is wanted.
    taking: JoinHandle<io::Result<Option<String>>>,
}

/// A content that was made of pieces whose hash was right.
#[derive(Debug)]
pub(crate) struct Seeded {
    disk: String,
    number: u64,
    file: Option<StagedFile>,
    pub(super) content: Option<ImageContent>,
}

/// What is to be made of the pieces.
struct Plan {
    number: u64,
    copies: bool,
    digests: bool,
}

impl VolumeStore {
    /// Begins to make the content that a start of `vm` will want, of pieces that are sent to what is answered beside it.
    /// `None` where nothing is wanted of the image, or something is in the way, which [`VolumeStore::stage`] will tell.
    pub(crate) fn begin_seeding(
        &self,
        vm: &VmId,
        request: &StageRequest<'_>,
    ) -> Option<(Seeding, SyncSender<Piece>)> {
        let image = request.image?;
        let plan = self.plan_seeding(vm, request, image)?;
        let seen = SeenFile::of(image).ok()?;
        let (file, target) = match plan.copies.then(|| self.make_target(vm, request, image, plan.number)) {
            Some(Ok((file, target))) => (Some(file), target),
            Some(Err(_)) | None => (None, None),
        };
        if file.is_none() && !plan.digests {
            return None;
        }
        let digest = plan.digests.then(|| ImageDigest::new(seen.size()));
        let (sender, pieces) = sync_channel(FEED_DEPTH);
        let thread = thread::Builder::new().name(format!("seed-{vm}").chars().take(15).collect());
        let taking = thread.spawn(move || take(&pieces, target.as_ref(), digest)).ok()?;
        let seeding =
            Seeding { disk: request.disk.to_owned(), number: plan.number, file, image: seen, taking };
        Some((seeding, sender))
    }

    fn plan_seeding(&self, vm: &VmId, request: &StageRequest<'_>, image: &File) -> Option<Plan> {
        let StageRequest { disk, policy, size, legacy, .. } = *request;
        let (record, sizes) = self.look(vm, disk, &self.volume(vm, disk)).ok()?;
        let is_new = record.is_none();
        let is_missing = is_new && policy != VolumePolicy::Ephemeral && self.is_known(vm, disk);
        if is_missing || (is_new && legacy.is_some_and(std::path::Path::is_file)) {
            return None;
        }
        let (copies, digests) = match policy {
            VolumePolicy::Ephemeral => (true, false),
            VolumePolicy::Persistent => (is_new, is_new),
            VolumePolicy::FromImage => (is_new, true),
        };
        let known =
            record.as_ref().and_then(VolumeRecord::current).and_then(|current| current.image.as_ref());
        let is_known = known.is_some_and(|known| known.is_still(image)) || self.images.find(image).is_some();
        let digests = digests && !is_known;
        if !copies {
            return digests.then_some(Plan { number: 0, copies, digests });
        }
        let wish = VolumeWish { policy, image: None, size: size.unwrap_or(Bytes::new(0)) };
        match decide(record.as_ref(), &sizes, &wish) {
            Ok(Decision::Seed { number }) => Some(Plan { number, copies, digests }),
            Ok(Decision::Keep { .. } | Decision::Restore { .. }) | Err(_) => None,
        }
    }

    /// A file for the content `number`, and where pieces are to be written; no such place where the file shares the image's
    /// blocks already.
    fn make_target(
        &self,
        vm: &VmId,
        request: &StageRequest<'_>,
        image: &File,
        number: u64,
    ) -> io::Result<(StagedFile, Option<File>)> {
        let directory = self.volume(vm, request.disk);
        directory.create()?;
        pass(FailPoint::VolumeDirectoryMade);
        let path = directory.staged(number);
        let made = || -> io::Result<(StagedFile, Option<File>)> {
            let file = create_anew(&path)?;
            let target = file.try_clone()?;
            let staged = StagedFile::new(path.clone(), file);
            if ioctl_ficlone(&target, image).is_ok() {
                return Ok((staged, None));
            }
            check_space(image, &target)?;
            target.set_len(image.metadata()?.len())?;
            Ok((staged, Some(target)))
        };
        made().inspect_err(|_| remove_empty_directories(&path))
    }
}

impl Seeding {
    /// Waits until what was sent is written; `None` where that is not the whole image. Call it when the hash was found right:
    /// no more pieces come then.
    pub(crate) fn finish(self) -> Option<Seeded> {
        let Self { disk, number, file, image, taking } = self;
        let digest = taking.join().ok()?.ok()?;
        let content = digest.map(|digest| ImageContent { digest, seen_in: image });
        Some(Seeded { disk, number, file, content })
    }
}

impl Seeded {
    /// Whose content it is.
    pub(crate) fn disk(&self) -> &str {
        &self.disk
    }

    /// The file, if it is that of content `number`.
    pub(super) fn into_file(self, number: u64) -> Option<StagedFile> {
        self.file.filter(|_| self.number == number)
    }
}

/// Takes the pieces of an image up to its end; answers the digest, where that is wanted.
fn take(
    pieces: &Receiver<Piece>,
    target: Option<&File>,
    mut digest: Option<ImageDigest>,
) -> io::Result<Option<String>> {
    for piece in pieces {
        match piece {
            Piece::Data { offset, bytes } => {
                if let Some(target) = target {
                    write(target, &bytes, offset)?;
                }
                if let Some(digest) = &mut digest {
                    digest.data(&bytes);
                }
            }
            Piece::Hole { length, .. } => {
                if let Some(digest) = &mut digest {
                    digest.zeros(length);
                }
            }
            Piece::End { .. } => return Ok(digest.map(ImageDigest::finish)),
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image was not handed on whole"))
}

/// Writes what is not zero: the file consists of holes so far.
fn write(target: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for part in bytes.chunks(HOLE) {
        if part.iter().any(|byte| *byte != 0) {
            target.write_all_at(part, at)?;
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// Contents of images that were read lately.
#[derive(Debug, Default)]
pub(super) struct KnownImages(Mutex<VecDeque<ImageContent>>);

impl KnownImages {
    /// The content of `image`, where it is a file that was read and has not changed since.
    pub(super) fn find(&self, image: &File) -> Option<ImageContent> {
        let seen = SeenFile::of(image).ok()?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|known| known.seen_in == seen).cloned()
    }

    /// Remembers `content`; the oldest goes for it where there are many.
    pub(super) fn remember(&self, content: &ImageContent) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(content) {
            return;
        }
        if known.len() == MAX_IMAGES {
            known.pop_front();
        }
        known.push_back(content.clone());
    }
}

//! Making a disk ready for a start. Nothing that a running machine uses is touched. What would become of it is said by
//! `preview`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use fail_points::{FailPoint, pass};
use vm_model::{Bytes, VmId, VolumePolicy};

use super::content::ImageContent;
use super::copy::{failed, make_file};
use super::decide::{Decision, VolumeProblem, VolumeWish, decide};
use super::directory::{VolumeDirectory, remove_file};
use super::error::VolumeError;
use super::record::{Content, VolumeRecord};
use super::seeding::Seeded;
use super::staged_file::{StagedFile, remove_empty_directories};
use super::store::VolumeStore;
use crate::supervisor::GivenUp;

/// What a start wants of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageRequest<'a> {
    /// The disk's name in the machine's description.
    pub(crate) disk: &'a str,
    /// When its content is given up.
    pub(crate) policy: VolumePolicy,
    /// What it is seeded from; a disk without is blank at first.
    pub(crate) image: Option<&'a File>,
    /// How large it is at least.
    pub(crate) size: Option<Bytes>,
    /// Where a worker before volumes kept this disk.
    pub(crate) legacy: Option<&'a Path>,
}

/// Whether images are read to find out whether their content is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thoroughness {
    /// No: what the file system does not tell is not known.
    Quick,
    /// Yes, which takes as long as reading them does.
    CompareImages,
}

/// What a start does to a disk.
pub(super) struct Weighed {
    /// Not known where images were not to be compared.
    pub(super) decision: Option<Decision>,
    content: Option<ImageContent>,
    pub(super) size: Bytes,
    /// Whether there is no volume yet.
    is_new: bool,
    /// The content in use.
    pub(super) present: Option<Content>,
}

/// A volume that is ready to be switched over to.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) disk: String,
    pub(super) policy: VolumePolicy,
    pub(super) decision: Decision,
    pub(super) image: Option<ImageContent>,
    /// The content that was made for it, where it is to have a new one.
    pub(super) file: Option<StagedFile>,
    /// The file of a worker before volumes that this one took over.
    pub(super) legacy: Option<PathBuf>,
    /// What it is for.
    pub(super) purpose: Purpose,
}

/// What a volume is made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// For a definition that stays once its machine was launched.
    Lasting,
    /// For one on trial: what its guest writes may be taken back.
    Trial {
        /// The content that the new one is a copy of.
        copied_from: Option<u64>,
    },
}

impl VolumeStore {
    /// Prepares a disk's content for a start, and touches nothing that a running machine uses. Takes as long as reading
    /// and copying the image does; none of it is done where the content is there already, or was `seeded` while the image
    /// was verified.
    pub(crate) fn stage(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        seeded: Option<Seeded>,
        given_up: &GivenUp,
    ) -> Result<Staged, VolumeError> {
        let StageRequest { disk, policy, image, legacy, .. } = request;
        let directory = self.volume(vm, disk);
        if let Some(content) = seeded.as_ref().and_then(|seeded| seeded.content.as_ref()) {
            self.images.remember(content);
        }
        let Weighed { decision, content, size, is_new, present: _ } =
            self.weigh(vm, &request, Thoroughness::CompareImages, given_up)?;
        let legacy = legacy.filter(|legacy| is_new && legacy.is_file());
        // Weighing with all thoroughness decides.
        let decision = decision.unwrap_or(Decision::Keep { grow: None });
        let file = match decision {
            Decision::Seed { number } => {
                let made = match seeded.and_then(|seeded| seeded.into_file(number)) {
                    Some(file) => complete_staged(&directory, number, file, size),
                    None => make_staged(&directory, number, image, size, legacy, given_up),
                };
                let made = made.inspect_err(|_| remove_empty_directories(&directory.staged(number)))?;
                // What was copied is to be what was compared.
                if let (Some(content), Some(image)) = (&content, image)
                    && legacy.is_none()
                    && !content.is_still(image)
                {
                    let changed = io::Error::other("its image changed while it was copied");
                    return Err(failed("create", &directory.staged(number), changed).into());
                }
                Some(made)
            }
            Decision::Keep { .. } | Decision::Restore { .. } => None,
        };
        if let Decision::Keep { grow: Some(size) } | Decision::Restore { grow: Some(size), .. } = decision {
            let tried = directory.try_size(size.get());
            tried.map_err(|source| failed("grow", directory.path(), source))?;
        }
        let legacy = legacy.map(Path::to_owned);
        Ok(Staged {
            disk: disk.to_owned(),
            policy,
            decision,
            image: content,
            file,
            legacy,
            purpose: Purpose::Lasting,
        })
    }

    /// Decides what a start does to a disk.
    pub(super) fn weigh(
        &self,
        vm: &VmId,
        request: &StageRequest<'_>,
        thoroughness: Thoroughness,
        given_up: &GivenUp,
    ) -> Result<Weighed, VolumeError> {
        let StageRequest { disk, policy, image, size, legacy } = *request;
        let directory = self.volume(vm, disk);
        let (record, sizes) = self.look(vm, disk, &directory)?;
        let inspect = |source| failed("read the image of", directory.path(), source);
        let image_size = image.map(|image| image.metadata().map(|metadata| metadata.len())).transpose();
        let image_size = image_size.map_err(inspect)?.unwrap_or_default();
        let size = Bytes::new(image_size.max(size.unwrap_or_default().get()));
        let is_new = record.is_none();
        let present = record.as_ref().and_then(VolumeRecord::current).cloned();
        let known = present.as_ref().and_then(|present| present.image.clone());
        // What the others are made of does not matter.
        let is_compared = match policy {
            VolumePolicy::FromImage => true,
            VolumePolicy::Persistent => is_new,
            VolumePolicy::Ephemeral => false,
        };
        let content = match (image.filter(|_| is_compared), thoroughness) {
            (Some(image), Thoroughness::CompareImages) => {
                let known = known.filter(|known| known.is_still(image)).or_else(|| self.images.find(image));
                let content = ImageContent::of(image, known.as_ref(), given_up).map_err(inspect)?;
                self.images.remember(&content);
                Some(content)
            }
            (Some(_), Thoroughness::Quick) if is_new => None,
            (Some(image), Thoroughness::Quick) => match known.filter(|known| known.is_still(image)) {
                Some(known) => Some(known),
                None => return Ok(Weighed { decision: None, content: None, size, is_new, present }),
            },
            (None, _) => None,
        };
        let digest = content.as_ref().map(|content| content.digest.clone());
        let wish = VolumeWish { policy, image: digest, size };
        let problem = |source| VolumeError::Problem {
            vm: vm.clone(),
            disk: disk.to_owned(),
            path: directory.path().to_owned(),
            source,
        };
        let is_taken_over = legacy.is_some_and(Path::is_file);
        if is_new && policy != VolumePolicy::Ephemeral && !is_taken_over && self.is_known(vm, disk) {
            return Err(problem(VolumeProblem::Missing));
        }
        let decision = decide(record.as_ref(), &sizes, &wish).map_err(problem)?;
        Ok(Weighed { decision: Some(decision), content, size, is_new, present })
    }

    /// Gives up what was staged. Blocks for as long as deleting a copy takes.
    pub(crate) fn discard(&self, vm: &VmId, staged: &Staged) {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &staged.file {
            file.delete();
        }
    }

    /// What is on record of a volume, and what lies there.
    pub(super) fn look(
        &self,
        vm: &VmId,
        disk: &str,
        directory: &VolumeDirectory,
    ) -> Result<(Option<VolumeRecord>, BTreeMap<u64, u64>), VolumeError> {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.load(directory)?;
        if let Some(record) = &record {
            // A crash may have come between the record and the file's name.
            let number = record.current.unwrap_or_default();
            directory.adopt(number).map_err(|source| failed("name", &directory.content(number), source))?;
        }
        let sizes = directory.sizes().map_err(|source| failed("list", directory.path(), source))?;
        if record.is_none() && !sizes.is_empty() {
            let path = directory.path().to_owned();
            return Err(VolumeError::NoRecord { vm: vm.clone(), disk: disk.to_owned(), path });
        }
        Ok((record, sizes))
    }
}

/// Completes the content `number` that was made of the pieces of its image.
fn complete_staged(
    directory: &VolumeDirectory,
    number: u64,
    file: StagedFile,
    size: Bytes,
) -> Result<StagedFile, VolumeError> {
    file.complete(size.get()).map_err(|source| failed("create", &directory.staged(number), source))?;
    pass(FailPoint::VolumeContentMade);
    Ok(file)
}

/// Makes the content `number`, which has at least `size` bytes: of `legacy`, the file of a worker before volumes, or of
/// `image`, or blank. A failure leaves no file.
fn make_staged(
    directory: &VolumeDirectory,
    number: u64,
    image: Option<&File>,
    size: Bytes,
    legacy: Option<&Path>,
    given_up: &GivenUp,
) -> Result<StagedFile, VolumeError> {
    directory.create().map_err(|source| failed("create", directory.path(), source))?;
    pass(FailPoint::VolumeDirectoryMade);
    let path = directory.staged(number);
    let file = match legacy {
        Some(legacy) => remove_file(&path)
            .and_then(|()| fs::hard_link(legacy, &path))
            .and_then(|()| File::open(&path))
            .map_err(|source| failed("take over", &path, source))?,
        None => make_file(image, size.get(), &path, given_up)?,
    };
    pass(FailPoint::VolumeContentMade);
    let made = StagedFile::new(path.clone(), file);
    match given_up.flow() {
        ControlFlow::Continue(()) => Ok(made),
        ControlFlow::Break(()) => {
            let given_up = io::Error::new(io::ErrorKind::Interrupted, "the start was given up");
            Err(failed("create", &path, given_up).into())
        }
    }
}

//! What a start would make of disks, in words, and what is in its way. Nothing is changed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::fs::{OFlags, ioctl_ficlone};
use vm_model::{Bytes, VmId, VolumePolicy};

use super::copy::{check_space, failed};
use super::decide::Decision;
use super::error::VolumeError;
use super::staging::{StageRequest, Staged, Thoroughness, Weighed};
use super::store::VolumeStore;
use crate::supervisor::GivenUp;

/// What a start would make of one disk.
#[derive(Debug, Default)]
pub(crate) struct Preview {
    /// In words; nothing where it goes on as it is.
    pub(crate) note: Option<String>,
    /// Whether what a guest wrote to it, which another policy kept, is given up by that, or may be.
    pub(crate) loses_data: bool,
    /// Why it cannot be done: there is no space, or the file system has no such size.
    pub(crate) obstacle: Option<VolumeError>,
    /// Why a running VM is not stopped for it: a smaller size is asked for than the disk has.
    pub(crate) shrinks: Option<VolumeError>,
}

impl VolumeStore {
    /// What a start would do to a disk; `grace` is how long what is replaced stays. Where images are not to be compared,
    /// that may not be known.
    pub(crate) fn preview(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        thoroughness: Thoroughness,
        grace: Duration,
        given_up: &GivenUp,
    ) -> Result<Preview, VolumeError> {
        let weighed = self.weigh(vm, &request, thoroughness, given_up)?;
        let (disk, decision) = (request.disk, weighed.decision);
        let loses_data = weighed.loses_data(request.policy);
        let note = match decision {
            Some(decision) if loses_data => Some(note_of_loss(disk, decision, request.policy, grace)),
            Some(decision) => note(disk, decision, request.policy, grace),
            None if loses_data => Some(format!(
                "{disk} kept if its image has the same content, else made anew; what was written to it then {}",
                stays(grace)
            )),
            None => Some(format!("{disk} kept if its image has the same content, else made anew")),
        };
        let note = note.map(|note| format!("{note}{}", self.beyond_file_system(&weighed)));
        let obstacle = self.obstacle(vm, &request, &weighed).err();
        let shrinks = shrinks(vm, &request, &weighed);
        Ok(Preview { note, loses_data, obstacle, shrinks })
    }

    /// Makes sure that the disk has no more than the size that is asked for: disks do not shrink.
    pub(crate) fn check_size(&self, vm: &VmId, request: &StageRequest<'_>) -> Result<(), VolumeError> {
        let weighed = self.weigh(vm, request, Thoroughness::Quick, &GivenUp::default())?;
        shrinks(vm, request, &weighed).map_or(Ok(()), Err)
    }

    /// What becomes of the volumes of `vm` that hold data and are not among the disks `wanted`: each with words, and whether
    /// it is deleted by and by.
    pub(crate) fn preview_left_out(
        &self,
        vm: &VmId,
        wanted: &[&str],
        grace: Duration,
    ) -> Result<Vec<(String, Preview)>, VolumeError> {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = Vec::new();
        for disk in self.disks_of(vm)?.into_iter().filter(|disk| !wanted.contains(&disk.as_str())) {
            let Some(record) = self.load(&self.volume(vm, &disk))? else { continue };
            if record.unused.is_some() || !record.holds_data() {
                continue;
            }
            let loses_data = record.policy != VolumePolicy::Persistent;
            let what = if loses_data { stays(grace) } else { "stays until it is deleted by hand".to_owned() };
            let note = Some(format!("{disk} left out; what was written to it {what}"));
            left_out.push((disk, Preview { note, loses_data, ..Preview::default() }));
        }
        Ok(left_out)
    }

    /// Makes sure that there can be what a start makes.
    fn obstacle(&self, vm: &VmId, request: &StageRequest<'_>, weighed: &Weighed) -> Result<(), VolumeError> {
        let directory = self.volume(vm, request.disk);
        let tried = |size: Bytes| {
            let tried = nameless(self.root()).map_or(Ok(()), |file| file.set_len(size.get()));
            tried.map_err(|source| failed("grow", directory.path(), source).into())
        };
        match weighed.decision {
            Some(Decision::Keep { grow: Some(size) } | Decision::Restore { grow: Some(size), .. }) => {
                tried(size)
            }
            Some(Decision::Keep { grow: None } | Decision::Restore { grow: None, .. }) | None => Ok(()),
            Some(Decision::Seed { .. }) => {
                if let Some(image) = request.image {
                    self.check_copy(image).map_err(|source| failed("create", directory.path(), source))?;
                }
                tried(weighed.size)
            }
        }
    }

    /// Makes sure that there is space for a copy of `image`, or that none is needed because its blocks can be shared.
    pub(super) fn check_copy(&self, image: &File) -> io::Result<()> {
        check_space(image, &File::open(self.root())?).or_else(|problem| {
            let is_shared = nameless(self.root()).is_ok_and(|file| ioctl_ficlone(&file, image).is_ok());
            if is_shared { Ok(()) } else { Err(problem) }
        })
    }

    /// What is to be said of a disk that is to be larger than its file system has room for. Room is taken as the guest
    /// writes, so that this is no obstacle.
    fn beyond_file_system(&self, weighed: &Weighed) -> String {
        let size = match weighed.decision {
            Some(Decision::Keep { grow } | Decision::Restore { grow, .. }) => grow,
            Some(Decision::Seed { .. }) => Some(weighed.size),
            None => None,
        };
        let (Some(size), Ok(system)) = (size, rustix::fs::statvfs(self.root())) else { return String::new() };
        let total = system.f_blocks.saturating_mul(system.f_frsize);
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        let has = weighed.grown_from().get();
        if size.get() > total {
            format!(", {size}, which is more than its whole file system has ({})", Bytes::new(total))
        } else if size.get().saturating_sub(has) > free {
            format!(
                ", {size}, although its file system has only {} free: its guest waits when that is used up",
                Bytes::new(free)
            )
        } else {
            String::new()
        }
    }
}

impl Weighed {
    /// How large the content is by now that it goes on with.
    fn grown_from(&self) -> Bytes {
        match (self.decision, &self.present) {
            (Some(Decision::Keep { .. }), Some(present)) => present.size,
            // Not known; nothing is said of it.
            (Some(Decision::Restore { .. }), _) => Bytes::new(u64::MAX),
            (Some(_) | None, _) => Bytes::new(0),
        }
    }

    /// Whether what a guest wrote, which another policy kept, is given up under `policy`, or may be.
    fn loses_data(&self, policy: VolumePolicy) -> bool {
        let is_kept = matches!(self.decision, Some(Decision::Keep { .. }));
        !is_kept
            && self.present.as_ref().is_some_and(|present| present.holds_data() && present.policy != policy)
    }
}

/// The refusal of a size that is smaller than the one that the disk goes on with.
fn shrinks(vm: &VmId, request: &StageRequest<'_>, weighed: &Weighed) -> Option<VolumeError> {
    match weighed.decision {
        Some(Decision::Keep { .. }) | None => {}
        Some(Decision::Restore { .. } | Decision::Seed { .. }) => return None,
    }
    let (asked, has) = (request.size?, weighed.present.as_ref()?.size);
    (asked < has).then(|| VolumeError::Shrinks { vm: vm.clone(), disk: request.disk.to_owned(), has, asked })
}

/// A file without a name in `directory`. Not every file system has such files.
fn nameless(directory: &std::path::Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
    OpenOptions::new().write(true).custom_flags(flags).open(directory)
}

/// What becomes of the disks that `staged` is of, in words; `grace` is how long what is replaced stays.
pub(crate) fn summary(staged: &[Staged], grace: Duration) -> String {
    let notes = staged.iter().filter_map(|volume| note(&volume.disk, volume.decision, volume.policy, grace));
    let notes: Vec<String> = notes.collect();
    if notes.is_empty() { "disks kept".to_owned() } else { notes.join(", ") }
}

/// What becomes of a disk, in words; nothing where it goes on as it is.
fn note(disk: &str, decision: Decision, policy: VolumePolicy, grace: Duration) -> Option<String> {
    Some(match (decision, policy) {
        (Decision::Keep { grow: None }, _) => return None,
        (Decision::Keep { grow: Some(size) }, _) => format!("{disk} kept and grown to {size}"),
        (Decision::Restore { number, grow }, VolumePolicy::Persistent) => {
            let grown = grow.map(|size| format!(" and is grown to {size}")).unwrap_or_default();
            format!(
                "{disk} goes back to content {number}, which was kept from when it was persistent{grown}; what was written \
                 to it since is deleted"
            )
        }
        (Decision::Restore { .. }, VolumePolicy::FromImage | VolumePolicy::Ephemeral) => {
            format!("{disk} goes back to what it was under this image")
        }
        (Decision::Seed { .. }, VolumePolicy::Ephemeral) => format!("{disk} fresh, as at each start"),
        (Decision::Seed { number: 0 }, _) => format!("{disk} new"),
        (Decision::Seed { .. }, VolumePolicy::FromImage | VolumePolicy::Persistent) => format!(
            "{disk} made anew, as its image has another content; the old one stays for {}",
            in_words(grace)
        ),
    })
}

/// As [`note`], of a disk to which a guest wrote what is given up because of its new policy.
fn note_of_loss(disk: &str, decision: Decision, policy: VolumePolicy, grace: Duration) -> String {
    let what = match (decision, policy) {
        (Decision::Restore { .. }, _) => "goes back to what it was under this image",
        (_, VolumePolicy::Ephemeral) => "fresh, from now on at each start",
        (_, VolumePolicy::FromImage | VolumePolicy::Persistent) => "made anew from its image",
    };
    format!("{disk} {what}; what was written to it {}", stays(grace))
}

fn stays(grace: Duration) -> String {
    match grace {
        Duration::ZERO => "is deleted at once".to_owned(),
        grace => format!("stays for {}", in_words(grace)),
    }
}

/// A length of time as people say it: `24 h`, `90 s`.
pub(crate) fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 3600 && seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

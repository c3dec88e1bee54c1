//! The volumes of all VMs: staging, switching over, undoing, deleting.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use vm_model::{Bytes, FailureKind, Timestamp, VmId, VolumePolicy};

use super::content::ImageContent;
use super::copy::{DiskError, failed, make_content};
use super::decide::{Decision, VolumeProblem, VolumeWish, decide};
use super::directory::{VolumeDirectory, remove_file};
use super::record::{Content, Unused, VolumeRecord};
use crate::records::{ReadError, WriteError, make_private, remove_all};
use crate::supervisor::GivenUp;

/// What stands before the name of what is being deleted. No VM's name begins so.
const REMOVED: &str = ".removed.";

/// Why a volume cannot be used.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    /// What is there is not what was left there.
    #[error("volume {} cannot be used", path.display())]
    Problem {
        path: PathBuf,
        #[source]
        source: VolumeProblem,
    },
    /// What is on record of it cannot be read.
    #[error("volume {} cannot be used", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    #[error(
        "volume {} cannot be used: its files are there and its volume.json is not: put it back, or delete the volume to \
         have it made anew",
        path.display()
    )]
    NoRecord { path: PathBuf },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    File(#[from] DiskError),
}

impl VolumeError {
    /// What kind of failure it is for its VM.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Problem { .. } | Self::NoRecord { .. } => FailureKind::Disk,
            Self::Record { source: ReadError::Io { .. }, .. } | Self::Write(_) | Self::File(_) => {
                FailureKind::Host
            }
            Self::Record { source: ReadError::Damaged { .. } | ReadError::Newer { .. }, .. } => {
                FailureKind::Disk
            }
        }
    }

    /// Whether the host's disk is full.
    pub(crate) fn is_for_want_of_space(&self) -> bool {
        let is_full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::File(problem) => is_full(&problem.source),
            Self::Write(problem) => is_full(problem.source()),
            Self::Problem { .. } | Self::Record { .. } | Self::NoRecord { .. } => false,
        }
    }
}

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
struct Weighed {
    /// Not known where images were not to be compared.
    decision: Option<Decision>,
    content: Option<ImageContent>,
    size: Bytes,
    /// Whether there is no volume yet.
    is_new: bool,
}

/// A volume that is ready to be switched over to.
#[derive(Debug)]
pub(crate) struct Staged {
    disk: String,
    policy: VolumePolicy,
    decision: Decision,
    image: Option<ImageContent>,
    size: Bytes,
    /// The file of a worker before volumes that this one took over.
    legacy: Option<PathBuf>,
}

/// A volume that was switched over to.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The disk's name in the machine's description.
    pub(crate) disk: String,
    /// Where its content lies.
    pub(crate) path: PathBuf,
    /// The content, open for reading and writing.
    pub(crate) file: Option<File>,
    /// What was on record before.
    before: Option<VolumeRecord>,
    /// The content that was made for this start.
    made: Option<u64>,
}

/// The volumes of all VMs of a host.
#[derive(Debug)]
pub(crate) struct VolumeStore {
    root: PathBuf,
    /// One lock a VM protects the records of its volumes. Held for a change of them, never while an image is read.
    locks: Mutex<BTreeMap<VmId, Arc<Mutex<()>>>>,
}

impl VolumeStore {
    /// The store in `state_dir`. Deletions that were cut short are finished.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, VolumeError> {
        let root = state_dir.join("volumes");
        make_private(&root).map_err(|source| failed("create", &root, source))?;
        let list = |source| failed("list", &root, source);
        for entry in fs::read_dir(&root).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_name().as_encoded_bytes().starts_with(REMOVED.as_bytes()) {
                remove_all(&entry.path()).map_err(|source| failed("delete", &entry.path(), source))?;
            }
        }
        Ok(Self { root, locks: Mutex::default() })
    }

    /// Prepares a disk's content for a start, and touches nothing that a running machine uses. Takes as long as reading
    /// and copying the image does; none of it is done where the content is there already.
    pub(crate) fn stage(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        given_up: &GivenUp,
    ) -> Result<Staged, VolumeError> {
        let StageRequest { disk, policy, image, legacy, .. } = request;
        let directory = self.volume(vm, disk);
        let Weighed { decision, content, size, is_new } =
            self.weigh(vm, &request, Thoroughness::CompareImages, given_up)?;
        let legacy = legacy.filter(|legacy| is_new && legacy.is_file());
        // Weighing with all thoroughness decides.
        let decision = decision.unwrap_or(Decision::Keep { grow: None });
        if let Decision::Seed { number } = decision {
            directory.create().map_err(|source| failed("create", directory.path(), source))?;
            let path = directory.staged(number);
            match legacy {
                Some(legacy) => remove_file(&path)
                    .and_then(|()| fs::hard_link(legacy, &path))
                    .map_err(|source| failed("take over", &path, source))?,
                None => make_content(image, size.get(), &path, given_up)?,
            }
        }
        let legacy = legacy.map(Path::to_owned);
        Ok(Staged { disk: disk.to_owned(), policy, decision, image: content, size, legacy })
    }

    /// What a start would do to a disk, in words; nothing where it goes on as it is. Where images are not to be compared,
    /// that may not be known.
    pub(crate) fn preview(
        &self,
        vm: &VmId,
        request: StageRequest<'_>,
        thoroughness: Thoroughness,
        grace: Duration,
        given_up: &GivenUp,
    ) -> Result<Option<String>, VolumeError> {
        let disk = request.disk;
        Ok(match self.weigh(vm, &request, thoroughness, given_up)?.decision {
            Some(decision) => note(disk, decision, request.policy, grace),
            None => Some(format!("{disk} kept if its image has the same content, else made anew")),
        })
    }

    /// Decides what a start does to a disk.
    fn weigh(
        &self,
        vm: &VmId,
        request: &StageRequest<'_>,
        thoroughness: Thoroughness,
        given_up: &GivenUp,
    ) -> Result<Weighed, VolumeError> {
        let StageRequest { disk, policy, image, size, .. } = *request;
        let directory = self.volume(vm, disk);
        let (record, sizes) = self.look(vm, &directory)?;
        let inspect = |source| failed("read the image of", directory.path(), source);
        let image_size = image.map(|image| image.metadata().map(|metadata| metadata.len())).transpose();
        let image_size = image_size.map_err(inspect)?.unwrap_or_default();
        let size = Bytes::new(image_size.max(size.unwrap_or_default().get()));
        let is_new = record.is_none();
        let known = record.as_ref().and_then(VolumeRecord::current).and_then(|current| current.image.clone());
        // What the others are made of does not matter.
        let is_compared = match policy {
            VolumePolicy::FromImage => true,
            VolumePolicy::Persistent => is_new,
            VolumePolicy::Ephemeral => false,
        };
        let content = match (image.filter(|_| is_compared), thoroughness) {
            (Some(image), Thoroughness::CompareImages) => {
                Some(ImageContent::of(image, known.as_ref(), given_up).map_err(inspect)?)
            }
            (Some(_), Thoroughness::Quick) if is_new => None,
            (Some(image), Thoroughness::Quick) => match known.filter(|known| known.is_still(image)) {
                Some(known) => Some(known),
                None => return Ok(Weighed { decision: None, content: None, size, is_new }),
            },
            (None, _) => None,
        };
        let digest = content.as_ref().map(|content| content.digest.clone());
        let wish = VolumeWish { policy, image: digest, size };
        let decision = decide(record.as_ref(), &sizes, &wish)
            .map_err(|source| VolumeError::Problem { path: directory.path().to_owned(), source })?;
        Ok(Weighed { decision: Some(decision), content, size, is_new })
    }

    /// Gives up what was staged.
    pub(crate) fn discard(&self, vm: &VmId, staged: &Staged) {
        if let Decision::Seed { number } = staged.decision {
            // What stays is overwritten by the next start.
            let _ = self.volume(vm, &staged.disk).delete(number);
        }
    }

    /// Switches a disk over to what was staged for it and opens it. No machine of `vm` may run.
    pub(crate) fn commit(&self, vm: &VmId, staged: Staged) -> Result<Committed, VolumeError> {
        let Staged { disk, policy, decision, image, size, legacy } = staged;
        let directory = self.volume(vm, &disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.load(&directory)?;
        let mut record = before.clone().unwrap_or_else(|| VolumeRecord {
            policy,
            next: 0,
            current: 0,
            contents: BTreeMap::new(),
            unused: None,
        });
        let (number, grow) = match decision {
            Decision::Keep { grow } => (record.current, grow),
            Decision::Restore { number, grow } => (number, grow),
            Decision::Seed { number } => (number, None),
        };
        let is_new = matches!(decision, Decision::Seed { .. });
        if is_new {
            record.next = number + 1;
            let path = directory.staged(number);
            let found = path.symlink_metadata().map_err(|source| failed("use", &path, source))?;
            let size = if legacy.is_some() { Bytes::new(found.len()) } else { size };
            let created = Timestamp::now();
            let content = Content { size, growing_from: None, created, image, used: false, until: None };
            record.contents.insert(number, content);
        } else if let (Some(image), Some(content)) = (image, record.contents.get_mut(&number)) {
            // The same content in another file: that one need not be read again either.
            content.image = Some(image);
        }
        record.policy = policy;
        record.current = number;
        record.unused = None;
        if let Some(content) = record.contents.get_mut(&number) {
            content.used = true;
            content.until = None;
            if let Some(size) = grow {
                content.growing_from = content.growing_from.or(Some(content.size));
                content.size = size;
            }
        }
        directory.save(&record)?;
        directory.adopt(number).map_err(|source| failed("name", &directory.content(number), source))?;
        if let Some(legacy) = &legacy {
            remove_file(legacy).map_err(|source| failed("take over", legacy, source))?;
        }
        let opened =
            directory.open(number).map_err(|source| failed("open", &directory.content(number), source))?;
        if let Some(size) = grow {
            let grown = opened.set_len(size.get()).and_then(|()| opened.sync_all());
            grown.map_err(|source| failed("grow", &directory.content(number), source))?;
            if let Some(content) = record.contents.get_mut(&number) {
                content.growing_from = None;
            }
            directory.save(&record)?;
        }
        // What was taken over holds data, whatever becomes of this start.
        let made = (is_new && legacy.is_none()).then_some(number);
        Ok(Committed { disk, path: directory.content(number), file: Some(opened), before, made })
    }

    /// Takes back a switch: the machine did not start, and no guest has written anything.
    pub(crate) fn undo(&self, vm: &VmId, committed: &Committed) -> Result<(), VolumeError> {
        let directory = self.volume(vm, &committed.disk);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // A volume that has grown stays so.
        if let Some(number) = committed.made {
            match &committed.before {
                Some(before) => directory.save(before)?,
                None => {
                    let path = directory.path();
                    return remove_all(path).map_err(|source| failed("delete", path, source).into());
                }
            }
            let path = directory.content(number);
            directory.delete(number).map_err(|source| failed("delete", &path, source))?;
        } else if let Some(before) = &committed.before
            && let Some(mut record) = self.load(&directory)?
        {
            record.current = before.current;
            directory.save(&record)?;
        }
        Ok(())
    }

    /// Puts in order what is left behind a start of `vm` with writable `disks`: contents that were replaced, and volumes
    /// that have no disk any more, are deleted after `grace`; those that hold nothing of a guest's, at once.
    pub(crate) fn settle(&self, vm: &VmId, disks: &[&str], grace: Duration) -> Result<(), VolumeError> {
        let until = Timestamp::now().after(grace);
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        for disk in self.disks_of(vm)? {
            let directory = self.volume(vm, &disk);
            let Some(mut record) = self.load(&directory)? else { continue };
            let before = record.clone();
            if !disks.contains(&disk.as_str()) && record.unused.is_none() {
                let is_kept = record.policy == VolumePolicy::Persistent;
                record.unused = Some(Unused { until: (!is_kept).then_some(until) });
            }
            let current = record.current;
            for (_, content) in record.contents.iter_mut().filter(|(number, _)| **number != current) {
                content.until = content.until.or(Some(until));
            }
            let is_ephemeral = record.policy == VolumePolicy::Ephemeral;
            let given_up: Vec<u64> = record
                .contents
                .iter()
                .filter(|(number, content)| **number != current && (is_ephemeral || !content.used))
                .map(|(number, _)| *number)
                .collect();
            given_up.iter().for_each(|number| drop(record.contents.remove(number)));
            if record != before {
                directory.save(&record)?;
            }
            for number in given_up {
                let path = directory.content(number);
                directory.delete(number).map_err(|source| failed("delete", &path, source))?;
            }
        }
        Ok(())
    }

    /// Whether `vm` has a volume that may hold what a guest wrote.
    pub(crate) fn holds_data(&self, vm: &VmId) -> Result<bool, VolumeError> {
        for disk in self.disks_of(vm)? {
            // What cannot be read may hold anything.
            let record = self.volume(vm, &disk).load();
            if record.map_or(true, |record| {
                record.is_some_and(|record| record.policy != VolumePolicy::Ephemeral && record.is_used())
            }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes every volume of `vm`. They go at once, by a renaming, and their files one by one; what is left of them by a
    /// crash goes when the store is opened next.
    pub(crate) fn delete_all(&self, vm: &VmId) -> Result<(), VolumeError> {
        let (path, removed) = (self.root.join(vm.as_str()), self.root.join(format!("{REMOVED}{vm}")));
        let delete = |source| failed("delete", &path, source);
        remove_all(&removed).map_err(delete)?;
        {
            let lock = self.lock(vm);
            let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            match fs::rename(&path, &removed).and_then(|()| File::open(&self.root)?.sync_all()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                renamed => renamed.map_err(delete)?,
            }
        }
        Ok(remove_all(&removed).map_err(delete)?)
    }

    /// The directory of one volume.
    pub(super) fn volume(&self, vm: &VmId, disk: &str) -> VolumeDirectory {
        VolumeDirectory::new(self.root.join(vm.as_str()).join(disk))
    }

    /// The names of `vm`'s disks that have a volume.
    pub(super) fn disks_of(&self, vm: &VmId) -> Result<Vec<String>, VolumeError> {
        names_in(&self.root.join(vm.as_str()))
    }

    /// The VMs that have volumes.
    pub(super) fn vms(&self) -> Result<Vec<VmId>, VolumeError> {
        Ok(names_in(&self.root)?.iter().filter_map(|name| VmId::parse(name).ok()).collect())
    }

    pub(super) fn load(&self, directory: &VolumeDirectory) -> Result<Option<VolumeRecord>, VolumeError> {
        let path = directory.path().to_owned();
        directory.load().map_err(|source| VolumeError::Record { path, source })
    }

    /// What is on record of a volume, and what lies there.
    fn look(
        &self,
        vm: &VmId,
        directory: &VolumeDirectory,
    ) -> Result<(Option<VolumeRecord>, BTreeMap<u64, u64>), VolumeError> {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.load(directory)?;
        if let Some(record) = &record {
            // A crash may have come between the record and the file's name.
            let adopted = directory.adopt(record.current);
            adopted.map_err(|source| failed("name", &directory.content(record.current), source))?;
        }
        let sizes = directory.sizes().map_err(|source| failed("list", directory.path(), source))?;
        if record.is_none() && !sizes.is_empty() {
            return Err(VolumeError::NoRecord { path: directory.path().to_owned() });
        }
        Ok((record, sizes))
    }

    pub(super) fn lock(&self, vm: &VmId) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds need not be remembered.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(vm.clone()).or_default())
    }
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
        (Decision::Restore { .. }, _) => format!("{disk} goes back to what it was under this image"),
        (Decision::Seed { .. }, VolumePolicy::Ephemeral) => format!("{disk} fresh, as at each start"),
        (Decision::Seed { number: 0 }, _) => format!("{disk} new"),
        (Decision::Seed { .. }, _) => format!(
            "{disk} made anew, as its image has another content; the old one stays for {}",
            in_words(grace)
        ),
    })
}

/// A length of time as people say it: `24 h`, `90 s`.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 3600 && seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

/// The names of what lies in `directory`, but for what is being deleted; none where there is no directory.
fn names_in(directory: &Path) -> Result<Vec<String>, VolumeError> {
    let list = |source| failed("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(list)?.file_name();
        names.extend(name.into_string().ok().filter(|name| !name.starts_with(REMOVED)));
    }
    names.sort();
    Ok(names)
}

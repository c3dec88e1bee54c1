//! The volumes of all VMs: switching over to what was staged, undoing that, putting in order, deleting.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vm_model::{Bytes, Timestamp, VmId, VolumePolicy};

use super::copy::failed;
use super::decide::{Decision, check};
use super::directory::{VolumeDirectory, remove_file};
use super::error::VolumeError;
use super::record::{Content, Unused, VolumeRecord};
use super::staging::Staged;
use crate::records::{RecordWriter, make_private, remove_all};

/// What stands before the name of what is being deleted. No VM's name begins so.
const REMOVED: &str = ".removed.";

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
    /// Where the VMs' own directories are.
    pub(super) vms: PathBuf,
    writer: RecordWriter,
    /// One lock a VM protects the records of its volumes. Held for a change of them, never while an image is read.
    locks: Mutex<BTreeMap<VmId, Arc<Mutex<()>>>>,
}

impl VolumeStore {
    /// The store in `state_dir` for the VMs whose directories are in `vms`; `writer` writes its records. Deletions that were
    /// cut short are finished.
    pub(crate) fn open(state_dir: &Path, vms: &Path, writer: RecordWriter) -> Result<Self, VolumeError> {
        let root = state_dir.join("volumes");
        make_private(&root).map_err(|source| failed("create", &root, source))?;
        let list = |source| failed("list", &root, source);
        for entry in fs::read_dir(&root).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_name().as_encoded_bytes().starts_with(REMOVED.as_bytes()) {
                remove_all(&entry.path()).map_err(|source| failed("delete", &entry.path(), source))?;
            }
        }
        let store = Self { root, vms: vms.to_owned(), writer, locks: Mutex::default() };
        store.sweep()?;
        Ok(store)
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
            current: None,
            contents: BTreeMap::new(),
            unused: None,
        });
        let path = directory.path().to_owned();
        let changed = || VolumeError::Changed { path: path.clone() };
        let (number, grow) = match decision {
            Decision::Keep { grow } => (record.current.ok_or_else(changed)?, grow),
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
            let content =
                Content { size, growing_from: None, created, image, used: false, policy, until: None };
            record.contents.insert(number, content);
        } else {
            // It may have been deleted since it was made ready, for its time or for want of space.
            let found = directory.sizes().map_err(|source| failed("list", directory.path(), source))?;
            let content = record.contents.get_mut(&number).ok_or_else(changed)?;
            check(content, found.get(&number).copied()).map_err(|_| changed())?;
            // The same content in another file: that one need not be read again either.
            content.image = image.or_else(|| content.image.take());
        }
        record.policy = policy;
        record.current = Some(number);
        record.unused = None;
        if let Some(content) = record.contents.get_mut(&number) {
            content.used = true;
            content.policy = policy;
            content.until = None;
            if let Some(size) = grow {
                content.growing_from = content.growing_from.or(Some(content.size));
                content.size = size;
            }
        }
        directory.save(&record)?;
        let opened = self.open_committed(vm, &disk, &directory, &mut record, grow).inspect_err(|_| {
            // Nothing has been written to it: all is as it was before.
            if let Some(before) = &before {
                let _ = directory.save(before);
            }
        })?;
        if let Some(legacy) = &legacy {
            remove_file(legacy).map_err(|source| failed("take over", legacy, source))?;
        }
        // What was taken over holds data, whatever becomes of this start.
        let made = (is_new && legacy.is_none()).then_some(number);
        Ok(Committed { disk, path: directory.content(number), file: Some(opened), before, made })
    }

    /// Gives the content that `record` is switched over to its name, opens it, and grows it where that is to be.
    fn open_committed(
        &self,
        vm: &VmId,
        disk: &str,
        directory: &VolumeDirectory,
        record: &mut VolumeRecord,
        grow: Option<Bytes>,
    ) -> Result<File, VolumeError> {
        let number = record.current.unwrap_or_default();
        let path = directory.content(number);
        directory.adopt(number).map_err(|source| failed("name", &path, source))?;
        match record.policy {
            VolumePolicy::FromImage | VolumePolicy::Persistent => self.know(vm, disk)?,
            VolumePolicy::Ephemeral => self.unknow(vm, disk)?,
        }
        let opened = directory.open(number).map_err(|source| failed("open", &path, source))?;
        if let Some(size) = grow {
            let grown = opened.set_len(size.get()).and_then(|()| opened.sync_all());
            grown.map_err(|source| failed("grow", &path, source))?;
            if let Some(content) = record.contents.get_mut(&number) {
                content.growing_from = None;
            }
            directory.save(record)?;
        }
        Ok(opened)
    }

    /// Deletes what starts and deletions that were cut short have left. Nothing is staged yet.
    fn sweep(&self) -> Result<(), VolumeError> {
        for vm in self.vms()? {
            for disk in self.disks_of(&vm)? {
                let directory = self.volume(&vm, &disk);
                // What has no record that can be read is left alone.
                if let Ok(record) = directory.load() {
                    let swept = directory.sweep(record.as_ref());
                    swept.map_err(|source| failed("clean", directory.path(), source))?;
                }
            }
        }
        Ok(())
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
                None => return self.remove(vm, &committed.disk),
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
        let mut first_problem = None;
        for disk in self.disks_of(vm)? {
            // One that cannot be read keeps no other from being put in order.
            if let Err(problem) = self.settle_one(vm, &disk, disks.contains(&disk.as_str()), until) {
                first_problem = first_problem.or(Some(problem));
            }
        }
        first_problem.map_or(Ok(()), Err)
    }

    fn settle_one(&self, vm: &VmId, disk: &str, is_used: bool, until: Timestamp) -> Result<(), VolumeError> {
        let directory = self.volume(vm, disk);
        let Some(mut record) = self.load(&directory)? else { return Ok(()) };
        let before = record.clone();
        if !is_used && record.unused.is_none() {
            let is_kept = record.policy == VolumePolicy::Persistent;
            record.unused = Some(Unused { until: (!is_kept).then_some(until) });
        }
        let current = record.current;
        for (_, content) in record.contents.iter_mut().filter(|(number, _)| Some(**number) != current) {
            content.until = content.until.or(Some(until));
        }
        let given_up: Vec<u64> = record
            .contents
            .iter()
            .filter(|(number, content)| Some(**number) != current && !content.holds_data())
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
        Ok(())
    }

    /// Whether `vm` has a volume that may hold what a guest wrote.
    pub(crate) fn holds_data(&self, vm: &VmId) -> Result<bool, VolumeError> {
        for disk in self.disks_of(vm)? {
            let directory = self.volume(vm, &disk);
            let holds_data = match directory.load() {
                Ok(Some(record)) => record.holds_data(),
                Ok(None) => {
                    let sizes =
                        directory.sizes().map_err(|source| failed("list", directory.path(), source))?;
                    !sizes.is_empty()
                }
                // What cannot be read may hold anything.
                Err(_) => true,
            };
            if holds_data {
                return Ok(true);
            }
        }
        // A worker before volumes kept disks beside the record.
        Ok(self.vms.join(vm.as_str()).join("disk0.img").exists())
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

    /// Deletes one volume. Its lock is held by who calls.
    pub(super) fn remove(&self, vm: &VmId, disk: &str) -> Result<(), VolumeError> {
        let path = self.volume(vm, disk).path().to_owned();
        let removed = self.root.join(format!("{REMOVED}{vm}.{disk}"));
        let delete = |source| failed("delete", &path, source);
        self.unknow(vm, disk)?;
        remove_all(&removed).map_err(delete)?;
        match fs::rename(&path, &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => Ok(renamed.and_then(|()| remove_all(&removed)).map_err(delete)?),
        }
    }

    /// Moves a volume to where nothing looks for it; answers where that is. Its lock is held by who calls.
    pub(super) fn move_aside(&self, vm: &VmId, disk: &str) -> Result<PathBuf, VolumeError> {
        let path = self.volume(vm, disk).path().to_owned();
        let free = (1_u64..).map(|number| self.root.join(format!(".kept.{vm}.{disk}.{number}")));
        let aside = free.into_iter().find(|aside| !aside.exists()).unwrap_or_default();
        let moved = fs::rename(&path, &aside).and_then(|()| File::open(&self.root)?.sync_all());
        moved.map_err(|source| failed("move", &path, source))?;
        Ok(aside)
    }

    /// The directory of one volume.
    pub(super) fn volume(&self, vm: &VmId, disk: &str) -> VolumeDirectory {
        VolumeDirectory::new(self.root.join(vm.as_str()).join(disk), self.writer.clone())
    }

    /// Where all volumes lie.
    pub(super) fn root(&self) -> &Path {
        &self.root
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

    pub(super) fn lock(&self, vm: &VmId) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds need not be remembered.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(vm.clone()).or_default())
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

//! The volumes of all VMs: finding them, putting them in order, deleting them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fail_points::{FailPoint, pass};
use tracing::warn;
use vm_model::{Bytes, Timestamp, VmId, VolumePolicy};

use super::copy::failed;
use super::directory::{VolumeDirectory, is_absent};
use super::error::VolumeError;
use super::record::{Unused, VolumeRecord};
use super::seeding::KnownImages;
use crate::failure::chain;
use crate::own_threads::OwnThreads;
use crate::records::{RecordWriter, make_private, remove_all};

/// What stands before the name of what is being deleted. No VM's name begins so.
const REMOVED: &str = ".removed.";
/// Volumes of a VM that take longer are left out of what is done for all VMs.
const PATIENCE: Duration = Duration::from_secs(3);

/// The volumes of all VMs of a host.
#[derive(Debug)]
pub(crate) struct VolumeStore {
    root: PathBuf,
    /// Where the VMs' own directories are.
    pub(super) vms: PathBuf,
    writer: RecordWriter,
    /// One lock a VM protects the records of its volumes. Held for a change of them, never while an image is read.
    locks: Mutex<BTreeMap<VmId, Arc<Mutex<()>>>>,
    /// Images that were read lately.
    pub(super) images: KnownImages,
    /// For work that concerns one VM after the other.
    threads: OwnThreads,
}

impl VolumeStore {
    /// The store in `state_dir` for the VMs whose directories are in `vms`; `writer` writes its records. Deletions that were
    /// cut short are finished.
    pub(crate) fn open(state_dir: &Path, vms: &Path, writer: RecordWriter) -> Result<Arc<Self>, VolumeError> {
        let root = state_dir.join("volumes");
        make_private(&root).map_err(|source| failed("create", &root, source))?;
        let store = Arc::new(Self {
            root,
            vms: vms.to_owned(),
            writer,
            locks: Mutex::default(),
            images: KnownImages::default(),
            threads: OwnThreads::default(),
        });
        store.finish_removals()?;
        for vm in store.vms()? {
            match store.of_vm(&vm, Self::sweep) {
                Some(Ok(())) => {}
                Some(Err(problem)) => {
                    warn!(vm_id = %vm, error = chain(&problem), "what starts that were cut short have left stays");
                }
                None => warn!(vm_id = %vm, "its volumes do not answer; the other VMs go on"),
            }
        }
        Ok(store)
    }

    /// Deletes what deletions that were cut short have left. What does not answer goes on being deleted, and nobody waits for it.
    fn finish_removals(&self) -> Result<(), VolumeError> {
        let list = |source| failed("list", &self.root, source);
        for entry in fs::read_dir(&self.root).map_err(list)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).map_err(list)?;
            let Some(name) = name.to_str().filter(|name| name.starts_with(REMOVED)) else { continue };
            let left = path.clone();
            match self.threads.run_within(name, "volumes", PATIENCE, move || remove_all(&left)) {
                Some(Ok(())) => {}
                Some(Err(source)) => {
                    let problem = failed("delete", &path, source);
                    warn!(error = chain(&problem), "what is left of a deletion stays until the next start");
                }
                None => warn!(path = %path.display(), "what is left of a deletion does not answer"),
            }
        }
        Ok(())
    }

    /// Does `work` with the volumes of `vm`; `None` where they do not answer, which is no other VM's matter.
    pub(super) fn of_vm<T: Send + 'static>(
        self: &Arc<Self>,
        vm: &VmId,
        work: impl FnOnce(&Self, &VmId) -> T + Send + 'static,
    ) -> Option<T> {
        let (store, owner) = (Arc::clone(self), vm.clone());
        self.threads.run_within(vm.as_str(), "volumes", PATIENCE, move || work(&store, &owner))
    }

    /// Deletes what starts and deletions of `vm` that were cut short have left. Nothing is staged yet.
    fn sweep(&self, vm: &VmId) -> Result<(), VolumeError> {
        // It may come late, when a start has begun.
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        for disk in self.disks_of(vm)? {
            let directory = self.volume(vm, &disk);
            // What has no record that can be read is left alone.
            if let Ok(record) = directory.load() {
                let swept = directory.sweep(record.as_ref());
                swept.map_err(|source| failed("clean", directory.path(), source))?;
            }
        }
        Ok(())
    }

    /// Puts in order what is left behind a start of `vm` with writable `disks`: contents that were replaced, and volumes
    /// that have no disk any more, are deleted after `grace`; those that hold nothing of a guest's, at once. A definition on
    /// trial is accepted by this.
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
        let copied_from = record.accept_trial();
        for (_, content) in record.contents.iter_mut().filter(|(number, _)| Some(**number) != current) {
            content.until = content.until.or(Some(until));
        }
        let mut given_up: Vec<u64> = record
            .contents
            .iter()
            .filter(|(number, content)| Some(**number) != current && !content.holds_data())
            .map(|(number, _)| *number)
            .collect();
        given_up.iter().for_each(|number| drop(record.contents.remove(number)));
        given_up.extend(copied_from);
        if record != before {
            directory.save(&record)?;
            pass(FailPoint::VolumeSettled);
        }
        for number in given_up {
            let path = directory.content(number);
            directory.delete(number).map_err(|source| failed("delete", &path, source))?;
        }
        Ok(())
    }

    /// Whether `vm` has a volume that may hold what a guest wrote.
    pub(crate) fn holds_data(&self, vm: &VmId) -> Result<bool, VolumeError> {
        self.holds_data_beside(vm, None)
    }

    /// The same, apart from one `disk`.
    pub(crate) fn holds_data_beside(&self, vm: &VmId, disk: Option<&str>) -> Result<bool, VolumeError> {
        for disk in self.disks_of(vm)?.into_iter().filter(|other| Some(other.as_str()) != disk) {
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
        self.has_earlier_disks(vm)
    }

    /// Whether disks of `vm` lie beside its record, where a worker before volumes kept them: `disk<position>.img`.
    fn has_earlier_disks(&self, vm: &VmId) -> Result<bool, VolumeError> {
        let names = names_in(&self.vms.join(vm.as_str()))?;
        Ok(names.iter().any(|name| {
            let position = name.strip_prefix("disk").and_then(|name| name.strip_suffix(".img"));
            position.is_some_and(|position| position.parse::<usize>().is_ok())
        }))
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
        pass(FailPoint::RemovalVolumesMoved);
        Ok(remove_all(&removed).map_err(delete)?)
    }

    /// Deletes the volume of one disk of `vm`, which has no machine; answers whether there was one.
    pub(crate) fn delete_volume(&self, vm: &VmId, disk: &str) -> Result<bool, VolumeError> {
        let lock = self.lock(vm);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.disks_of(vm)?.iter().any(|known| known == disk) && !self.is_known(vm, disk) {
            return Ok(false);
        }
        self.remove(vm, disk).map(|()| true)
    }

    /// Deletes one volume. Its lock is held by who calls.
    pub(super) fn remove(&self, vm: &VmId, disk: &str) -> Result<(), VolumeError> {
        let path = self.volume(vm, disk).path().to_owned();
        let removed = self.root.join(format!("{REMOVED}{vm}.{disk}"));
        let delete = |source| failed("delete", &path, source);
        self.unknow(vm, disk)?;
        pass(FailPoint::VolumeForgotten);
        remove_all(&removed).map_err(delete)?;
        match fs::rename(&path, &removed).and_then(|()| File::open(&self.root)?.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(delete)?,
        }
        pass(FailPoint::VolumeMoved);
        Ok(remove_all(&removed).map_err(delete)?)
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

    /// What each volume of `vm` takes of the host's disk, everything included that is kept of it. What cannot be seen counts
    /// as nothing.
    pub(crate) fn taken_by(&self, vm: &VmId) -> BTreeMap<String, Bytes> {
        let disks = self.disks_of(vm).unwrap_or_default().into_iter().map(|disk| {
            let files = fs::read_dir(self.root.join(vm.as_str()).join(&disk)).into_iter().flatten().flatten();
            let blocks = files.filter_map(|file| file.metadata().ok()).map(|found| found.blocks());
            let taken = blocks.fold(0_u64, |sum, blocks| sum.saturating_add(blocks.saturating_mul(512)));
            (disk, Bytes::new(taken))
        });
        disks.collect()
    }

    /// The names of `vm`'s disks that have a volume.
    pub(super) fn disks_of(&self, vm: &VmId) -> Result<Vec<String>, VolumeError> {
        names_in(&self.root.join(vm.as_str()))
    }

    /// The VMs that have volumes.
    pub(crate) fn vms(&self) -> Result<Vec<VmId>, VolumeError> {
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

/// The names of what lies in `directory`, but for what is being deleted; none where there is no such directory.
pub(super) fn names_in(directory: &Path) -> Result<Vec<String>, VolumeError> {
    let list = |source| failed("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
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

//! One VM's directory: what the VM is, and where its disks lie.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fail_points::{FailPoint, pass};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{Assignment, EndCause, FailureReason, Health, MachineCounters, RunEnd, Timestamp, VmId};

use super::lenient::{known, known_items};
use super::rollout::{Rollout, RolloutStage};
use super::vm_lock::{locked_by, other_holder};
use super::{
    IdleVm, ReadError, RecordWriter, RunCounts, SealKey, VmLockError, WriteError, discard_unfinished,
    read_in_place, read_versioned,
};
use crate::definition::is_same_definition;

const VERSION: u32 = 2;
const FILE: &str = "record.json";
/// What stands before the name of a VM's directory that is being deleted. No VM's name begins so.
const REMOVED: &str = ".removed.";
/// A VM's disks are nobody else's to read.
const DIRECTORY_MODE: u32 = 0o700;

/// What the worker must still know of a VM after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    /// What was asked for.
    pub(crate) assignment: Assignment,
    /// The machine's identity, drawn once.
    pub(crate) uuid: Uuid,
    /// Whether the guest has switched itself off, so that it stays off until somebody starts it.
    #[serde(default)]
    pub(crate) powered_off: bool,
    /// Why it failed, where its definition has it stay so, until somebody starts it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub(crate) stays_failed: Option<Box<FailureReason>>,
    /// The definition its newest machine was made of, where that is not what was asked for last.
    #[serde(default)]
    pub(crate) in_force: Option<Assignment>,
    /// The definition that is on trial, or that was refused after its trial and is still wanted.
    #[serde(default)]
    pub(crate) rollout: Option<Box<Rollout>>,
    /// When its run began that has not ended yet, as far as is known.
    #[serde(default)]
    pub(crate) running_since: Option<Timestamp>,
    /// By what the worker knows again what it noted with the machine of its newest run; workers before did not seal that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal_key: Option<SealKey>,
    /// Why its run was told to end, from before its guest is until its end is on record.
    #[serde(default)]
    pub(crate) stopping: Option<EndCause>,
    /// What was known last of the guest of its present run.
    #[serde(default, deserialize_with = "known")]
    pub(crate) health: Option<Box<Health>>,
    /// What its machines counted in its runs that have ended: totals go on from there under the next worker. Workers
    /// before this was kept do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub(crate) past_use: Option<Box<MachineCounters>>,
    /// How its latest runs ended, oldest first.
    #[serde(default, deserialize_with = "known_items")]
    pub(crate) ends: Vec<RunEnd>,
    /// What was counted of it up to the begin or the end of its latest run.
    #[serde(default)]
    pub(crate) counted: RunCounts,
    /// There when it was removed and its volumes are kept for a while.
    #[serde(default)]
    pub(crate) removed: Option<Removal>,
}

/// A VM's removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removal {
    /// When it was removed.
    pub(crate) at: Timestamp,
    /// When what is kept of it is deleted.
    pub(crate) until: Timestamp,
    /// How far it is.
    #[serde(default)]
    pub(crate) stage: RemovalStage,
}

/// How far a removal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RemovalStage {
    /// All of the VM is there, and it can come back.
    #[default]
    Kept,
    /// Everything of it is being deleted, and a part may be gone: it does not come back, whatever happens.
    Deleting,
}

/// The most ends of runs that are kept.
const MOST_ENDS: usize = 16;

impl VmRecord {
    /// The record of a VM that has none yet.
    pub(crate) fn new(assignment: Assignment) -> Self {
        Self {
            assignment,
            uuid: Uuid::new_v4(),
            powered_off: false,
            stays_failed: None,
            in_force: None,
            rollout: None,
            running_since: None,
            seal_key: None,
            stopping: None,
            health: None,
            past_use: None,
            ends: Vec::new(),
            counted: RunCounts::default(),
            removed: None,
        }
    }

    /// Whether it was removed, and how far that is.
    pub(crate) fn removal_stage(&self) -> Option<RemovalStage> {
        self.removed.map(|removal| removal.stage)
    }

    /// The definition that its newest machine was made by.
    pub(crate) fn newest(&self) -> &Assignment {
        self.in_force.as_ref().unwrap_or(&self.assignment)
    }

    /// Nothing that happened to it keeps it from being started.
    pub(crate) fn may_start(&mut self) {
        self.powered_off = false;
        self.stays_failed = None;
    }

    /// Every definition that is on record of it.
    pub(crate) fn assignments(&self) -> impl Iterator<Item = &Assignment> {
        let of_rollout = |rollout| {
            let Rollout { before, tried, stage, .. }: &Rollout = rollout;
            let refused = match stage {
                RolloutStage::OnTrial => None,
                RolloutStage::Refused(refused) => Some(&refused.assignment),
            };
            [before, tried].into_iter().chain(refused)
        };
        let rollout = self.rollout.as_deref().into_iter().flat_map(of_rollout);
        [&self.assignment].into_iter().chain(&self.in_force).chain(rollout)
    }

    /// Its machine is gone: of a definition on trial nothing stays in force.
    pub(crate) fn interrupt_rollout(&mut self) {
        if let Some(Rollout { before, .. }) = self.rollout.as_deref() {
            let is_other = !is_same_definition(before, &self.assignment);
            self.in_force = is_other.then(|| before.clone());
        }
    }

    /// Adds the end of the newest run; the oldest goes where there are many. Starts that fail again and again in one way
    /// are one end.
    pub(crate) fn add_end(&mut self, end: RunEnd) {
        if self.ends.last().is_some_and(|last| is_same_failed_start(last, &end)) {
            self.ends.pop();
        }
        self.ends.push(end);
        let surplus = self.ends.len().saturating_sub(MOST_ENDS);
        self.ends.drain(..surplus);
        self.running_since = None;
        self.health = None;
        self.stopping = None;
    }
}

fn is_same_failed_start(one: &RunEnd, other: &RunEnd) -> bool {
    one.ran_for.is_none()
        && (one.ran_for, one.method, one.cause, &one.detail)
            == (other.ran_for, other.method, other.cause, &other.detail)
}

/// A VM that has a directory, and its record or why that cannot be used.
pub(crate) type Found = (VmId, Result<VmRecord, RecordError>);

/// The directory of all VMs.
#[derive(Clone, Debug)]
pub(crate) struct RecordStore {
    root: PathBuf,
    writer: RecordWriter,
}

/// Why a VM's directory could not be used.
#[derive(Debug, Error)]
pub(crate) enum RecordError {
    #[error("cannot {operation} the VM directory {}", path.display())]
    Directory {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the VM directory {} has files but no {FILE}: move them away or remove the directory", path.display())]
    NoRecord { path: PathBuf },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl RecordStore {
    /// The store below `root`, which is created; `writer` writes its records.
    pub(crate) fn open(root: &Path, writer: RecordWriter) -> Result<Self, RecordError> {
        make_private(root).map_err(|source| failed("create", root, source))?;
        Ok(Self { root: root.to_owned(), writer })
    }

    /// The directory of VM `id`.
    pub(crate) fn directory(&self, id: &VmId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Keeps `id` from being run by any process, unless one runs it.
    pub(crate) fn lock_idle(&self, id: &VmId) -> Result<IdleVm, VmLockError> {
        IdleVm::lock(&self.directory(id))
    }

    /// The process that has the lock of VM `id` open, where that is known and it is another than `pid`.
    pub(crate) fn other_holder(&self, id: &VmId, pid: u32) -> Option<u32> {
        other_holder(&self.directory(id), pid)
    }

    /// The VMs whose locks process `pid` is known to have open.
    pub(crate) fn locked_by(&self, pid: u32) -> Vec<VmId> {
        let names = locked_by(&self.root, pid).into_iter();
        names.filter_map(|name| VmId::parse(&name).ok()).collect()
    }

    /// What is on record of `id`, if anything is.
    pub(crate) fn load(&self, id: &VmId) -> Result<Option<VmRecord>, RecordError> {
        Ok(read_versioned(&self.directory(id).join(FILE), VERSION)?)
    }

    /// Writes the record of `record`'s VM, creating its directory.
    pub(crate) fn save(&self, record: &VmRecord) -> Result<(), RecordError> {
        let directory = self.directory(&record.assignment.id);
        if !directory.exists() {
            make_private(&directory)
                .and_then(|()| sync(&self.root))
                .map_err(|source| failed("create", &directory, source))?;
            pass(FailPoint::VmDirectoryMade);
        }
        Ok(self.writer.write_versioned(&directory.join(FILE), VERSION, record)?)
    }

    /// Removes VM `id`'s directory with everything in it. Removing what is not there is fine.
    ///
    /// The VM goes at once, by a renaming; its files then go one by one. What is left of them by a crash goes when the
    /// store is read next.
    pub(crate) fn remove(&self, id: &VmId) -> Result<(), RecordError> {
        let (directory, removed) = (self.directory(id), self.root.join(format!("{REMOVED}{id}")));
        let remove = |source| failed("remove", &removed, source);
        remove_all(&removed).map_err(remove)?;
        match fs::rename(&directory, &removed).and_then(|()| sync(&self.root)) {
            Ok(()) => {
                pass(FailPoint::RemovalDirectoryMoved);
                remove_all(&removed).map_err(remove)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(failed("remove", &directory, source)),
        }
    }

    /// The record of every VM that has one, as it stands there; nothing is put in order.
    ///
    /// # Errors
    /// One cannot be used.
    pub(crate) fn read_all(&self) -> Result<Vec<VmRecord>, RecordError> {
        let list = |source| failed("list", &self.root, source);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_name().to_str().is_some_and(|name| VmId::parse(name).is_ok()) {
                records.extend(read_in_place::<VmRecord>(&entry.path().join(FILE), VERSION)?);
            }
        }
        Ok(records)
    }

    /// Every VM that has a directory: its record, or why that cannot be used. Entries that are no VM directories
    /// are left out. What was cut short is put in order, so nothing else may use the store meanwhile.
    pub(crate) fn load_all(&self) -> Result<Vec<Found>, RecordError> {
        let list = |source| failed("list", &self.root, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(list)? {
            let entry = entry.map_err(list)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(REMOVED.as_bytes()) {
                remove_all(&entry.path()).map_err(|source| failed("remove", &entry.path(), source))?;
                continue;
            }
            let Some(id) = name.to_str().and_then(|name| VmId::parse(name).ok()) else {
                continue;
            };
            let file = entry.path().join(FILE);
            discard_unfinished(&file);
            match read_versioned::<VmRecord>(&file, VERSION) {
                Ok(Some(record)) => found.push((id, Ok(record))),
                // The record is written first: without one, either the creation was cut short before anything was
                // there, or somebody's data lies here that is not ours to delete.
                Ok(None) if is_empty(&entry.path()).map_err(list)? => self.remove(&id)?,
                Ok(None) => found.push((id, Err(RecordError::NoRecord { path: entry.path() }))),
                Err(error) => found.push((id, Err(error.into()))),
            }
        }
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(found)
    }
}

/// Whether a VM directory holds nothing.
fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory)?.next() {
        None => Ok(true),
        Some(entry) => entry.map(|_| false),
    }
}

/// Creates `directory` and what is missing above it, for its owner alone.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// Removes `directory` and what is in it. One that is not there is fine.
pub(crate) fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> RecordError {
    RecordError::Directory { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn open(root: &Path) -> Result<RecordStore, RecordError> {
        RecordStore::open(root, RecordWriter::open(root.parent().expect("it is in a directory")))
    }

    fn record(id: &str) -> VmRecord {
        VmRecord {
            uuid: Uuid::nil(),
            ..VmRecord::new(Assignment::new(VmId::new(id), "sha256-x=", "/nix/store/x"))
        }
    }

    #[test]
    fn vms_are_found_again_and_one_damaged_record_hides_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory.path().join("vms")).expect("opened");
        let (a, b) = (record("a"), record("b"));
        store.save(&a).expect("saved");
        store.save(&b).expect("saved");
        fs::create_dir(store.directory(&VmId::new("shell"))).expect("created");
        fs::create_dir(store.root.join("Not-An-Id")).expect("created");
        for cut_short in ["a", "shell"] {
            fs::write(store.directory(&VmId::new(cut_short)).join("record.new"), "{").expect("written");
        }
        fs::write(store.directory(&VmId::new("b")).join(FILE), "garbage").expect("damaged");

        let loaded = store.load_all().expect("listed");
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded[0].1.as_ref().expect("intact"), &a);
        assert!(loaded[1].1.is_err());
        assert!(!store.directory(&VmId::new("shell")).exists());
        assert!(!store.directory(&VmId::new("a")).join("record.new").exists());

        let again = store.load_all().expect("listed");
        assert!(again[1].1.is_err(), "a record that was kept aside still guards its directory");
        assert!(store.directory(&VmId::new("b")).join("record.json.kept-1").exists());

        store.remove(&VmId::new("a")).expect("removed");
        store.remove(&VmId::new("a")).expect("removing twice is fine");
        assert!(!store.directory(&VmId::new("a")).exists());
    }

    /// A later release has more words for how a run ended and how a guest is, and more keys.
    #[test]
    fn a_record_of_a_later_release_is_read_without_its_news_of_the_past() {
        use vm_model::{EndMethod, Timestamp};
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory.path().join("vms")).expect("opened");
        let mut a = record("a");
        let end = |method| RunEnd {
            at: Timestamp::from_millis(1),
            ran_for: None,
            method,
            cause: EndCause::Guest,
            detail: None,
        };
        a.ends = vec![end(EndMethod::Reset), end(EndMethod::PoweredOff)];
        a.health = Some(Box::new(Health::unknown(Timestamp::from_millis(1))));
        store.save(&a).expect("saved");
        let file = store.directory(&a.assignment.id).join(FILE);
        let mut later: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).expect("read")).expect("a document");
        let as_it_is = later.clone();
        later["ends"][0]["method"] = "hibernated".into();
        later["health"]["ready"] = "half_way".into();
        later["moods"] = 3.into();
        fs::write(&file, later.to_string()).expect("written");
        let found = store.load(&a.assignment.id).expect("read").expect("it is there");
        assert_eq!(found.ends, [end(EndMethod::PoweredOff)]);
        assert_eq!((found.health, found.uuid), (None, a.uuid));
        // What the VM is, is not guessed.
        for (key, value) in [("assignment", "desired"), ("removed", "until")] {
            let mut other = as_it_is.clone();
            other[key] = serde_json::json!({ value: "in another way" });
            fs::write(&file, other.to_string()).expect("written");
            assert!(store.load(&a.assignment.id).is_err(), "{key}");
        }
    }

    #[test]
    fn a_removal_that_was_cut_short_is_finished_and_its_name_is_free() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory.path().join("vms")).expect("opened");
        let a = record("a");
        store.save(&a).expect("saved");
        fs::write(store.directory(&a.assignment.id).join("disk0.img"), "x").expect("written");
        // Killed right after the renaming, with half of the files gone.
        fs::rename(store.directory(&a.assignment.id), store.root.join(".removed.a")).expect("renamed");
        fs::remove_file(store.root.join(".removed.a").join(FILE)).expect("removed");
        assert_eq!(store.load_all().expect("listed").len(), 0);
        assert_eq!(fs::read_dir(&store.root).expect("listed").count(), 0);
        store.save(&a).expect("saved again");
        store.remove(&a.assignment.id).expect("removed");
        assert_eq!(fs::read_dir(&store.root).expect("listed").count(), 0);
    }

    #[test]
    fn what_a_vm_keeps_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory.path().join("vms")).expect("opened");
        store.save(&record("a")).expect("saved");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&store.root), 0o700);
        assert_eq!(mode(&store.directory(&VmId::new("a"))), 0o700);
    }

    #[test]
    fn ends_are_bounded_and_a_start_that_fails_again_and_again_is_one() {
        use vm_model::{EndCause, EndMethod, FailureKind};
        let mut record = record("vm");
        let end = |minute: u64, ran_for, detail: &str| RunEnd {
            at: Timestamp::from_millis(minute * 60_000),
            ran_for,
            method: EndMethod::Failed,
            cause: EndCause::Failure { kind: FailureKind::Host, class: None },
            detail: Some(detail.to_owned()),
        };
        for minute in 0..5 {
            record.add_end(end(minute, None, "no space"));
        }
        assert_eq!(record.ends, [end(4, None, "no space")], "the newest is told");
        for minute in 5..50 {
            record.add_end(end(minute, Some(std::time::Duration::from_secs(1)), "no space"));
        }
        assert_eq!(record.ends.len(), MOST_ENDS);
        assert_eq!(record.ends.last(), Some(&end(49, Some(std::time::Duration::from_secs(1)), "no space")));
    }
}

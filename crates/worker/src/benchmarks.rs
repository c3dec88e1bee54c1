//! What benchmarks time of this crate's inside, and no more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix_artifacts::{Feed, FileIdentities, LoadedPath, StoreRoots, hash_store_path, verify_loaded};
use serde::Serialize;
use vm_model::{Assignment, DesiredState, Generation, NarHash, SourceKind, VmId, VolumePolicy};

use crate::node::{Described, Intent, Observed, ObservedVm, Said, plan, redefined};
use crate::records::{RecordStore, RecordWriter, VmRecord};
use crate::supervisor::GivenUp;
use crate::volumes::VolumeStore;
use crate::{records, volumes};

/// Copies the disk `image` to `path`, as for a VM that may write to it; a copy that is there is replaced.
///
/// # Errors
/// The file system refuses.
pub fn copy_disk(image: &File, path: &Path) -> io::Result<()> {
    volumes::make_content(Some(image), 0, path, &GivenUp::default()).map_err(io::Error::other)
}

/// The first start from an image, as far as its files go.
#[derive(Debug)]
pub struct FirstStart {
    roots: StoreRoots,
    store_path: PathBuf,
    image: PathBuf,
    files: FileIdentities,
    hash: NarHash,
    volumes: Arc<VolumeStore>,
    vm: VmId,
    copy: PathBuf,
}

impl FirstStart {
    /// From `image` in the store path `name` of `store`, by a worker whose state lies in `state_dir`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn new(store: &Path, name: &str, image: &str, state_dir: &Path) -> io::Result<Self> {
        let roots = StoreRoots::open(&[store.to_owned()]).map_err(io::Error::other)?;
        let store_path = store.join(name);
        let seen = hash_store_path(&roots, &store_path, &mut |_| ControlFlow::Continue(()));
        let seen = seen.map_err(io::Error::other)?;
        records::make_private(state_dir)?;
        let vms = state_dir.join("vms");
        records::make_private(&vms.join("bench"))?;
        let volumes = VolumeStore::open(state_dir, &vms, RecordWriter::open(state_dir));
        Ok(Self {
            roots,
            store_path,
            image: image.into(),
            files: seen.files,
            hash: seen.hash,
            volumes: volumes.map_err(io::Error::other)?,
            vm: VmId::new("bench"),
            copy: state_dir.join("volumes/bench/disk0/0.img"),
        })
    }

    /// Verifies the store path and makes the volume of its image.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn verify_and_copy(&self) -> io::Result<()> {
        let image = File::open(self.store_path.join(&self.image))?;
        let request = volumes::StageRequest {
            disk: "disk0",
            policy: VolumePolicy::FromImage,
            image: Some(&image),
            size: None,
            legacy: None,
        };
        let begun = self.volumes.begin_seeding(&self.vm, &request);
        let (seeding, pieces) = begun.ok_or_else(|| io::Error::other("nothing is to be copied"))?;
        let feed = Feed { path: self.image.clone(), pieces, is_urgent: Box::new(|| false) };
        let loaded = LoadedPath { store_path: &self.store_path, met: &self.files, feeds: vec![feed] };
        verify_loaded(&self.roots, loaded, &self.hash, &mut |_| ControlFlow::Continue(()))
            .map_err(io::Error::other)?;
        let seeded = seeding.finish();
        let whole = seeded.ok_or_else(|| io::Error::other("the image was not handed on whole"))?;
        let staged = self.volumes.stage(&self.vm, request, Some(whole), &GivenUp::default());
        let staged = staged.map_err(io::Error::other)?;
        self.volumes.commit(&self.vm, staged).map(drop).map_err(io::Error::other)
    }

    /// Where the copy lies.
    pub fn copy(&self) -> PathBuf {
        self.copy.clone()
    }
}

/// Replaces the record at `path` by one that holds `content`.
///
/// # Errors
/// The file system refuses.
pub fn write_record(path: &Path, content: &str) -> io::Result<()> {
    #[derive(Serialize)]
    struct Record<'a> {
        content: &'a str,
    }
    records::write_versioned(path, 1, &Record { content }).map_err(io::Error::other)
}

/// Writes the records of `count` VMs below `state_dir`.
///
/// # Errors
/// The file system refuses.
pub fn write_vm_records(state_dir: &Path, count: usize) -> io::Result<()> {
    let store = record_store(state_dir)?;
    for number in 0..count {
        let hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let id = VmId::new(&format!("vm-{number}"));
        store
            .save(&VmRecord::new(Assignment::new(id, hash, "/nix/store/guest")))
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Loads the records of all VMs below `state_dir`, and answers how many can be used.
///
/// # Errors
/// The file system refuses.
pub fn load_vm_records(state_dir: &Path) -> io::Result<usize> {
    let found = record_store(state_dir)?.load_all().map_err(io::Error::other)?;
    Ok(found.iter().filter(|(_, record)| record.is_ok()).count())
}

fn record_store(state_dir: &Path) -> io::Result<RecordStore> {
    records::make_private(state_dir)?;
    RecordStore::open(&state_dir.join("vms"), RecordWriter::open(state_dir)).map_err(io::Error::other)
}

/// What a host has and what its file says, for planning.
#[derive(Debug)]
pub struct Planning {
    intent: Intent,
    observed: Observed,
}

impl Planning {
    /// A host with `count` VMs, and a file with as many: of ten VMs one is new, one is gone, one has another image, one is
    /// to be off, and six stay as they are.
    pub fn of(count: usize) -> Self {
        let vm = |number: usize, hash: &str, desired| {
            let id = VmId::new(&format!("vm-{number}"));
            Assignment { desired, ..Assignment::new(id, hash, "/nix/store/guest") }
        };
        let (mut said, mut observed) = (Said::default(), Observed::new());
        said.desired.generation = Some(Generation::new(1));
        for number in 0..count {
            let present = vm(number, "sha256-a=", DesiredState::Running);
            let (hash, desired) = match number % 10 {
                2 => ("sha256-b=", DesiredState::Running),
                3 => ("sha256-a=", DesiredState::Stopped),
                _ => ("sha256-a=", DesiredState::Running),
            };
            if number % 10 != 1 {
                said.desired.vms.push(vm(number, hash, desired));
            }
            if number % 10 != 0 {
                let vm = ObservedVm {
                    assignment: present,
                    can_retry_help: false,
                    description: None,
                    forwards: None,
                    is_changing: false,
                    promised: None,
                };
                observed.insert(vm.assignment.id.clone(), vm);
            }
        }
        Self { intent: Intent::default().with(SourceKind::File, said), observed }
    }

    /// From what the sources say to all actions; how many.
    pub fn plan(&self) -> usize {
        let merged = self.intent.merged(&BTreeSet::from([SourceKind::File]));
        let desired = merged.to_set();
        let changed = redefined(&desired, &self.observed);
        debug_assert!(changed.len() <= desired.vms.len());
        plan(&desired, &self.observed, &Described::new(), Duration::from_secs(86_400)).len()
    }
}

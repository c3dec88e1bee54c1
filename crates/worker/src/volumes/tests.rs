//! The store on real files.

mod answering;
mod listing;
mod seeding;
mod staging;
mod switching;
mod trials;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vm_model::{Bytes, VmId, VolumeInfo, VolumePolicy};

use super::staging::Staged;
use super::{Committed, StageRequest, VolumeError, VolumeStore};
use crate::records::RecordWriter;
use crate::supervisor::GivenUp;

const GRACE: Duration = Duration::from_secs(3600);

fn vm() -> VmId {
    VmId::new("vm")
}

/// A store in a directory, for the disk `data` of one VM.
struct Bench {
    folder: TempDir,
    /// Where the state lies.
    state: PathBuf,
    store: Arc<VolumeStore>,
}

impl Bench {
    fn new() -> Self {
        Self::with_state(|folder| folder.to_owned())
    }

    /// One whose state lies where `place` says; it is given a directory that goes with the test.
    fn with_state(place: impl FnOnce(&Path) -> PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let state = place(folder.path());
        let vms = state.join("vms");
        fs::create_dir_all(vms.join("vm")).expect("created");
        let store = VolumeStore::open(&state, &vms, RecordWriter::open(&state)).expect("opened");
        Self { folder, state, store }
    }

    /// A file in the volume's directory.
    fn file(&self, name: &str) -> PathBuf {
        self.state.join("volumes/vm/data").join(name)
    }

    /// A file in the VM's own directory.
    fn beside_record(&self, name: &str) -> PathBuf {
        self.state.join("vms/vm").join(name)
    }

    fn image(&self, name: &str, content: &str) -> File {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("written");
        File::open(path).expect("opened")
    }

    fn try_stage(&self, request: StageRequest<'_>, given_up: &GivenUp) -> Result<Staged, VolumeError> {
        self.store.stage(&vm(), request, None, given_up)
    }

    /// A persistent disk of `size` bytes, made ready.
    fn sized(&self, size: u64) -> Staged {
        self.try_stage(sized(size), &GivenUp::default()).expect("staged")
    }

    /// A disk that follows `image`, made ready.
    fn seeded(&self, image: &File) -> Staged {
        self.try_stage(seeded(image), &GivenUp::default()).expect("staged")
    }

    fn commit(&self, staged: Staged) -> Committed {
        self.store.commit(&vm(), staged).expect("switched over")
    }

    fn settle(&self) {
        self.store.settle(&vm(), &["data"], GRACE).expect("put in order");
    }

    fn list(&self) -> Vec<VolumeInfo> {
        self.store.list(|_| None).expect("listed")
    }

    /// What the volume's directory holds.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.file("")) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("listed").file_name().into_string().expect("text"));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

fn sized(size: u64) -> StageRequest<'static> {
    StageRequest {
        disk: "data",
        policy: VolumePolicy::Persistent,
        image: None,
        size: Some(Bytes::new(size)),
        legacy: None,
    }
}

fn seeded(image: &File) -> StageRequest<'_> {
    let image = Some(image);
    StageRequest { disk: "data", policy: VolumePolicy::FromImage, image, size: None, legacy: None }
}

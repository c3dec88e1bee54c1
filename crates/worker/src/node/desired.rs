//! The desired state in force, kept on disk so that a worker that comes back knows it without being told.

use std::path::{Path, PathBuf};

use vm_model::AssignmentSet;

use crate::records::{ReadError, RecordWriter, WriteError, discard_unfinished, read_versioned};

const VERSION: u32 = 1;
const FILE: &str = "worker.json";

/// The file that holds the desired state.
#[derive(Clone, Debug)]
pub(super) struct DesiredStateFile {
    path: PathBuf,
    writer: RecordWriter,
}

impl DesiredStateFile {
    /// The file in `state_dir`, written by `writer`.
    pub(super) fn in_directory(state_dir: &Path, writer: RecordWriter) -> Self {
        Self { path: state_dir.join(FILE), writer }
    }

    /// What was in force when the file was written last. To be called before anything is saved.
    pub(super) fn load(&self) -> Result<Option<AssignmentSet>, ReadError> {
        discard_unfinished(&self.path);
        read_versioned::<Stored>(&self.path, VERSION).map(|stored| stored.map(|stored| stored.desired))
    }

    /// Puts `desired` on stable storage.
    pub(super) fn save(&self, desired: &AssignmentSet) -> Result<(), WriteError> {
        self.writer.write_versioned(&self.path, VERSION, &Stored { desired: desired.clone() })
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    desired: AssignmentSet,
}

//! The desired state in force, kept on disk so that a worker that comes back knows it without being told.

use std::path::{Path, PathBuf};

use vm_model::AssignmentSet;

use crate::records::{ReadError, WriteError, read_versioned, write_versioned};

const VERSION: u32 = 1;
const FILE: &str = "worker.json";

/// The file that holds the desired state.
#[derive(Clone, Debug)]
pub(super) struct DesiredStateFile {
    path: PathBuf,
}

impl DesiredStateFile {
    /// The file in `state_dir`.
    pub(super) fn in_directory(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// What was in force when the file was written last.
    pub(super) fn load(&self) -> Result<Option<AssignmentSet>, ReadError> {
        read_versioned::<Stored>(&self.path, VERSION).map(|stored| stored.map(|stored| stored.desired))
    }

    /// Puts `desired` on stable storage.
    pub(super) fn save(&self, desired: &AssignmentSet) -> Result<(), WriteError> {
        write_versioned(&self.path, VERSION, &Stored { desired: desired.clone() })
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    desired: AssignmentSet,
}

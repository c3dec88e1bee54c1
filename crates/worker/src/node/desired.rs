//! What every source has said, kept on disk so that a worker that comes back knows it without being told.

use std::path::{Path, PathBuf};

use vm_model::{AssignmentSet, SourceKind};

use super::intent::{Intent, Said};
use crate::records::{ReadError, RecordWriter, WriteError, discard_unfinished, read_versioned};

const VERSION: u32 = 2;
const FILE: &str = "worker.json";

/// The file that holds what every source has said.
#[derive(Clone, Debug)]
pub(super) struct IntentFile {
    path: PathBuf,
    writer: RecordWriter,
}

impl IntentFile {
    /// The file in `state_dir`, written by `writer`.
    pub(super) fn in_directory(state_dir: &Path, writer: RecordWriter) -> Self {
        Self { path: state_dir.join(FILE), writer }
    }

    /// What was in force when the file was written last. To be called before anything is saved.
    pub(super) fn load(&self) -> Result<Intent, ReadError> {
        discard_unfinished(&self.path);
        let stored = read_versioned::<Stored>(&self.path, VERSION)?;
        Ok(stored.map_or_else(Intent::default, Stored::into_intent))
    }

    /// Puts `intent` on stable storage.
    pub(super) fn save(&self, intent: &Intent) -> Result<(), WriteError> {
        self.writer.write_versioned(&self.path, VERSION, intent)
    }
}

/// Both versions of the file's content.
#[derive(serde::Deserialize)]
struct Stored {
    /// Version 1, which knew one source.
    #[serde(default)]
    desired: Option<AssignmentSet>,
    /// Version 2.
    #[serde(flatten)]
    intent: Option<Intent>,
}

impl Stored {
    fn into_intent(self) -> Intent {
        match (self.desired, self.intent) {
            (Some(desired), _) => {
                Intent::default().with(SourceKind::File, Said { desired, ..Said::default() })
            }
            (None, intent) => intent.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vm_model::{Generation, Lineage};

    use super::*;

    #[test]
    fn what_was_said_is_read_back_also_from_a_file_that_knew_one_source() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = IntentFile::in_directory(directory.path(), RecordWriter::open(directory.path()));
        assert_eq!(file.load().expect("nothing there"), Intent::default());
        let version_1 = r#"{"version": 1, "desired": {"generation": 4, "vms": [], "allow_removals": false}}"#;
        fs::write(directory.path().join(FILE), version_1).expect("written");
        let intent = file.load().expect("read");
        let said = intent.of(SourceKind::File).expect("the file's");
        assert_eq!(said.generation(), Generation::new(4));

        let lineage = Some(Lineage::new("m", "1").expect("fine"));
        let intent = intent.clone().with(SourceKind::Master, Said { lineage, ..said.clone() });
        file.save(&intent).expect("saved");
        assert_eq!(file.load().expect("read"), intent);
    }
}

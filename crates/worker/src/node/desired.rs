//! What every source has said, kept on disk so that a worker that comes back knows it without being told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vm_model::{AssignmentSet, SourceKind, VmId};

use super::intent::{Intent, Said};
use super::orders::Orders;
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

    /// What was in force when the file was written last; `None` where there is no file. To be called before anything is
    /// saved.
    pub(super) fn load(&self) -> Result<Option<Intent>, ReadError> {
        discard_unfinished(&self.path);
        let stored = read_versioned::<Stored>(&self.path, VERSION)?;
        Ok(stored.map(|Stored(intent)| intent))
    }

    /// Puts `intent` on stable storage.
    pub(super) fn save(&self, intent: &Intent) -> Result<(), WriteError> {
        self.writer.write_versioned(&self.path, VERSION, intent)
    }
}

/// The file's content in either version.
#[derive(serde::Deserialize)]
#[serde(try_from = "Raw")]
struct Stored(Intent);

/// The keys of both versions.
#[derive(serde::Deserialize)]
struct Raw {
    /// Version 1, which knew one source.
    desired: Option<AssignmentSet>,
    /// Version 2.
    sources: Option<BTreeMap<SourceKind, Said>>,
    #[serde(default)]
    unclaimed: BTreeSet<VmId>,
    #[serde(default)]
    orders: Orders,
}

impl TryFrom<Raw> for Stored {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        match raw {
            Raw { sources: Some(sources), unclaimed, orders, desired: None } => {
                Ok(Self(Intent::of_sources(sources, unclaimed, orders)))
            }
            Raw { desired: Some(desired), sources: None, .. } => {
                let said = Said { desired, ..Said::default() };
                Ok(Self(Intent::default().with(SourceKind::File, said)))
            }
            Raw { .. } => Err("it says neither what one source nor what several have said"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vm_model::{Assignment, DesiredState, Generation, Lineage, Timestamp};

    use super::super::intent::DrainState;
    use super::super::orders::Given;
    use super::*;

    #[test]
    fn what_was_said_is_read_back_also_from_a_file_that_knew_one_source() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = IntentFile::in_directory(directory.path(), RecordWriter::open(directory.path()));
        assert_eq!(file.load().expect("nothing there"), None);
        let version_1 = r#"{"version": 1, "desired": {"generation": 4, "vms": [], "allow_removals": false}}"#;
        fs::write(directory.path().join(FILE), version_1).expect("written");
        let intent = file.load().expect("read").expect("there");
        let said = intent.of(SourceKind::File).expect("the file's");
        assert_eq!(said.generation(), Generation::new(4));

        let lineage = Some(Lineage::new("m", "1").expect("fine"));
        let intent = intent.clone().with(SourceKind::Master, Said { lineage, ..said.clone() });
        let vm = Assignment::new(VmId::new("a"), "", "/nix/store/x");
        let given = Given { at: Timestamp::from_millis(9), by: Some(0) };
        let intent = intent.with_order(&vm, DrainState::Usual, DesiredState::Stopped, given);
        file.save(&intent).expect("saved");
        assert_eq!(file.load().expect("read"), Some(intent));
    }

    #[test]
    fn a_file_that_says_something_else_is_damaged_and_never_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = IntentFile::in_directory(directory.path(), RecordWriter::open(directory.path()));
        for text in [
            r#"{"version": 2}"#,
            r#"{"version": 2, "sources": null}"#,
            r#"{"version": 2, "sources": {"file": {"desired": {"vms": [{"id": "a", "desired": "hibernated"}]}}}}"#,
            r#"{"version": 1, "desired": {"vms": [{}]}}"#,
        ] {
            fs::write(directory.path().join(FILE), text).expect("written");
            assert!(matches!(file.load(), Err(ReadError::Damaged { .. })), "{text}");
        }
    }
}

//! What has become of the assignments file, for the status and for whoever asks.

use std::path::PathBuf;

use vm_model::{Generation, RefusedEntry, Timestamp};

/// The assignments file as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// Which file; absent where none was given.
    pub(crate) path: Option<PathBuf>,
    /// When its content was read last.
    pub(crate) read_at: Option<Timestamp>,
    /// What became of that.
    pub(crate) verdict: Verdict,
    /// Entries of the newest content that was taken, which could not be used themselves.
    pub(crate) refused_entries: Vec<RefusedEntry>,
    /// The newest of its states that was taken.
    pub(crate) generation: Option<Generation>,
}

/// What became of the file's present content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was not looked at yet, or there is no file to look at.
    #[default]
    Pending,
    /// It is what should run.
    InForce,
    /// It waits for somebody's word; what was in force stays so until then.
    Held,
    /// There is none. The text says what is missing.
    Missing(String),
    /// It cannot be used. The text says why; what was in force stays so.
    Refused(String),
}

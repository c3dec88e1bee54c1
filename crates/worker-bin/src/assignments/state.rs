//! What has become of the assignments file. What becomes of the state that it says is the node's to tell.

use std::path::PathBuf;

use vm_model::Timestamp;

/// The assignments file as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// Which file; absent where none was given.
    pub(crate) path: Option<PathBuf>,
    /// When its content was read last.
    pub(crate) read_at: Option<Timestamp>,
    /// What became of that.
    pub(crate) verdict: Verdict,
}

/// What became of the file's present content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was not looked at yet, or there is no file to look at.
    #[default]
    Pending,
    /// It is what should run, or waits to become that: the node's status tells which.
    Taken,
    /// There is none. The text says what is missing.
    Missing(String),
    /// It cannot be used. The text says why; what was in force stays so.
    Refused(String),
}

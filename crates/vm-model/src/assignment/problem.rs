//! What is wrong with a document of assignments, for the person who wrote it.

use thiserror::Error;

use crate::document::{Place, SyntaxProblem};

/// A document that says the smallest useful thing.
pub(super) const EXAMPLE: &str =
    r#"{"vms": [{"id": "web-1", "hash": "sha256-…=", "store_path": "/nix/store/…-vm-image"}]}"#;

/// Why a document of assignments, or one entry of it, cannot be used: what was met, where, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}{}: {met}; accepted is {accepted}", at(path))]
pub struct AssignmentsError {
    /// Line of the document, from 1 on.
    pub line: usize,
    /// Character of that line, from 1 on.
    pub column: usize,
    /// The JSON path, like `vms[2].overrides.vcpus`; empty for the document as a whole.
    pub path: String,
    /// What was met there.
    pub met: String,
    /// What is accepted there, with an example.
    pub accepted: String,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(", {path}") }
}

impl AssignmentsError {
    pub(super) fn new(
        place: Place,
        path: impl Into<String>,
        met: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Self {
        Self {
            line: place.line,
            column: place.column,
            path: path.into(),
            met: met.into(),
            accepted: accepted.into(),
        }
    }
}

impl From<SyntaxProblem> for AssignmentsError {
    fn from(problem: SyntaxProblem) -> Self {
        let accepted = format!("{}: JSON like {EXAMPLE}", problem.accepted);
        Self::new(problem.place, "", problem.met, accepted)
    }
}

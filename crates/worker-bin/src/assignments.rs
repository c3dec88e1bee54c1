//! The assignments file as a source of desired states: read at start, whenever it changes (`followed`), and when the worker
//! is told to. A content that cannot be used is logged once and shown in the status, and what was in force stays so.

mod changes;
mod file;
mod followed;
mod state;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use vm_model::{AssignmentSet, SourceKind};
use worker::node::{self, AssignmentSource, NodeMessage, Refusal, Statement, listen_to};

pub(crate) use self::file::{Seen, look as look_at};
use self::followed::{Followed, News};
pub(crate) use self::state::{SourceState, Verdict};

/// An assignments file by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignmentsFile {
    path: PathBuf,
    directory: PathBuf,
    name: OsString,
}

impl AssignmentsFile {
    /// The file at `path`, which need not be there.
    ///
    /// # Errors
    /// The path can name no file.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let name = path
            .file_name()
            .with_context(|| {
                format!("invalid assignments file {}: a file's name is accepted", path.display())
            })?
            .to_owned();
        Ok(Self { path: path.to_owned(), directory, name })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads assignments files and says what they say.
pub(crate) struct Source {
    /// The file to read. Each message, also one of the same file, has it read again.
    requests: watch::Receiver<Option<AssignmentsFile>>,
    state: watch::Sender<SourceState>,
    reading: Reading,
}

/// What is read.
enum Reading {
    /// What is requested was not looked at yet.
    Requested,
    /// Nothing, until something is requested.
    Nothing,
    /// A file.
    File(Followed),
}

impl Source {
    /// A source of the file in `requests`, that tells of itself in `state`.
    pub(crate) fn new(
        requests: watch::Receiver<Option<AssignmentsFile>>,
        state: watch::Sender<SourceState>,
    ) -> Self {
        Self { requests, state, reading: Reading::Requested }
    }

    /// Tells the node behind `messages` what the file says, now, after each change and at each request, until nobody
    /// receives or requests any more.
    pub(crate) async fn run(self, messages: mpsc::Sender<NodeMessage>) {
        // A file that does not change has nothing to send by which the node's end would be noticed.
        tokio::select! {
            () = listen_to(self, messages.clone()) => {}
            () = messages.closed() => {}
        }
    }

    /// Turns to what is requested. Where that is no file, says so.
    fn turn_to_request(&mut self) -> Option<Statement> {
        let file = self.requests.borrow_and_update().clone();
        let path = file.as_ref().map(|file| file.path.clone());
        self.state.send_replace(SourceState { path, ..SourceState::default() });
        match file {
            Some(file) => {
                self.reading = Reading::File(Followed::new(file));
                None
            }
            None => {
                info!("no assignments file was given: VMs on record are kept as they were desired");
                self.reading = Reading::Nothing;
                Some(Statement::Gone)
            }
        }
    }

    /// What was seen at `path`, as a statement. What cannot be used is told in the log and in `state`.
    fn statement(path: &Path, seen: &Seen, state: &watch::Sender<SourceState>) -> Statement {
        let path = path.display();
        let verdict = match seen {
            Seen::Missing(what) => {
                warn!(file = %path, "waiting for the assignments: {what}");
                Verdict::Missing(what.clone())
            }
            Seen::Unusable(problem) => {
                error!(file = %path, error = %problem, "the assignments were not taken");
                Verdict::Refused(problem.clone())
            }
            Seen::Text(text) => match AssignmentSet::parse(text) {
                Ok(desired) => return Statement::Desired { source: vm_model::Source::File, desired },
                Err(problem) => {
                    error!(file = %path, error = %problem, "the assignments were not taken");
                    Verdict::Refused(problem.to_string())
                }
            },
        };
        state.send_modify(|state| state.verdict = verdict);
        Statement::Unusable
    }
}

impl AssignmentSource for Source {
    fn kind(&self) -> SourceKind {
        SourceKind::File
    }

    async fn next(&mut self) -> Option<Statement> {
        loop {
            match &mut self.reading {
                Reading::Requested => {
                    if let Some(statement) = self.turn_to_request() {
                        return Some(statement);
                    }
                }
                Reading::Nothing => {
                    self.requests.changed().await.ok()?;
                    self.reading = Reading::Requested;
                }
                Reading::File(followed) => match followed.next(&mut self.requests, &self.state).await {
                    News::Seen(seen) => return Some(Self::statement(followed.path(), &seen, &self.state)),
                    News::OtherRequested => self.reading = Reading::Requested,
                    News::Ended => return None,
                },
            }
        }
    }

    fn acknowledge(&mut self, verdict: Result<node::Verdict, Refusal>) {
        let verdict = match verdict {
            Ok(admitted) => {
                // That it is held instead was said by whoever holds it.
                if admitted.held.is_none() {
                    info!(generation = %admitted.generation, "assignments taken");
                }
                Verdict::Taken
            }
            Err(refusal) => {
                let path = self.state.borrow().path.clone().unwrap_or_default();
                error!(file = %path.display(), %refusal, "assignments refused");
                Verdict::Refused(refusal.to_string())
            }
        };
        self.state.send_modify(|state| state.verdict = verdict);
    }
}

#[cfg(test)]
mod tests;

//! The assignments file: read at start, whenever it changes, and when the worker is told to.
//!
//! The file's directory is watched, not the file: editors and programs replace files by renaming. Because a file can
//! also change where no watch sees it (behind a link, or in a directory that was replaced), it is looked at now and
//! then as well. A content that cannot be used is logged once and shown in the status, and what was in force stays so.

mod changes;
mod file;
mod state;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};
use vm_model::{AssignmentSet, SourceKind, Timestamp};
use worker::node::NodeMessage;

use self::changes::Changes;
pub(crate) use self::file::{Seen, look as look_at};
pub(crate) use self::state::{SourceState, Verdict};

/// A file that is being written is read when it has been quiet for so long.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the file is looked at although nothing was heard of a change.
const LOOK: Duration = Duration::from_secs(5);

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

/// Reads assignments files and hands on what they say.
pub(crate) struct Source {
    /// The file to read. Each message, also one of the same file, has it read again.
    requests: watch::Receiver<Option<AssignmentsFile>>,
    messages: mpsc::Sender<NodeMessage>,
    state: watch::Sender<SourceState>,
}

/// Why a file is not followed any further.
enum Left {
    ForAnother,
    ForGood,
}

impl Source {
    /// A source of the file in `requests`, that tells of itself in `state`.
    pub(crate) fn new(
        requests: watch::Receiver<Option<AssignmentsFile>>,
        messages: mpsc::Sender<NodeMessage>,
        state: watch::Sender<SourceState>,
    ) -> Self {
        Self { requests, messages, state }
    }

    /// Sends what the file says, now, after each change and at each request, until nobody receives or requests any more.
    pub(crate) async fn run(mut self) {
        loop {
            let file = self.requests.borrow_and_update().clone();
            let path = file.as_ref().map(|file| file.path.clone());
            self.state.send_modify(|state| {
                *state = SourceState { path, ..SourceState::default() };
            });
            let left = match file {
                Some(file) => self.follow(&file).await,
                None => {
                    info!("no assignments file was given: VMs on record are kept as they were desired");
                    if self.messages.send(NodeMessage::SourceGone(SourceKind::File)).await.is_err() {
                        return;
                    }
                    // Both arms are cancel-safe.
                    tokio::select! {
                        request = self.requests.changed() => next_request(request),
                        () = self.messages.closed() => Left::ForGood,
                    }
                }
            };
            match left {
                Left::ForAnother => {}
                Left::ForGood => return,
            }
        }
    }

    /// Follows `file` until another one is asked for.
    async fn follow(&mut self, file: &AssignmentsFile) -> Left {
        let mut changes = None;
        let mut last = None;
        loop {
            if changes.is_none() {
                changes = Changes::of(&file.directory).ok();
            }
            let seen = look(&file.path).await;
            if let Seen::Text(_) = seen {
                self.state.send_modify(|state| state.read_at = Some(Timestamp::now()));
            }
            if last.as_ref() != Some(&seen) {
                if self.take(file, &seen).await.is_err() {
                    return Left::ForGood;
                }
                last = Some(seen);
            }
            // Losing the first arm loses news of changes at most, and the file is looked at anyway; the others are
            // cancel-safe.
            tokio::select! {
                () = next_change(&mut changes, &file.name) => sleep(SETTLE).await,
                () = sleep(LOOK) => {}
                request = self.requests.changed() => {
                    if request.is_err() {
                        return Left::ForGood;
                    }
                    if self.requests.borrow().as_ref() != Some(file) {
                        return Left::ForAnother;
                    }
                    info!(file = %file.path.display(), "reading the assignments again");
                    last = None;
                }
                () = self.messages.closed() => return Left::ForGood,
            }
        }
    }

    /// Says what was seen and hands it on. Fails where nobody receives.
    async fn take(&self, file: &AssignmentsFile, seen: &Seen) -> Result<(), ()> {
        let path = file.path.display();
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
                Ok(set) => return self.send(file, set).await,
                Err(problem) => {
                    error!(file = %path, error = %problem, "the assignments were not taken");
                    Verdict::Refused(problem.to_string())
                }
            },
        };
        self.state.send_modify(|state| state.verdict = verdict);
        self.messages.send(NodeMessage::SourceLost(SourceKind::File)).await.map_err(drop)
    }

    /// Hands a desired state over and tells the verdict.
    async fn send(&self, file: &AssignmentsFile, desired: AssignmentSet) -> Result<(), ()> {
        let (answer, verdict) = oneshot::channel();
        let message =
            NodeMessage::Assignment { source: vm_model::Source::File, desired, answer: Some(answer) };
        self.messages.send(message).await.map_err(drop)?;
        let verdict = match verdict.await.map_err(drop)? {
            Ok(admitted) => {
                // That it is held instead was said by whoever holds it.
                if admitted.held.is_none() {
                    info!(generation = %admitted.generation, "assignments taken");
                }
                Verdict::Taken
            }
            Err(refusal) => {
                error!(file = %file.path.display(), %refusal, "assignments refused");
                Verdict::Refused(refusal.to_string())
            }
        };
        self.state.send_modify(|state| state.verdict = verdict);
        Ok(())
    }
}

fn next_request(request: Result<(), watch::error::RecvError>) -> Left {
    if request.is_ok() { Left::ForAnother } else { Left::ForGood }
}

/// What there is now. A disk or a network may take its time: not on the runtime's thread.
async fn look(path: &Path) -> Seen {
    let path = path.to_owned();
    spawn_blocking(move || file::look(&path)).await.unwrap_or_else(|lost| Seen::Unusable(lost.to_string()))
}

/// Returns when something happened to the entry `name`; never where nothing is watched.
async fn next_change(changes: &mut Option<Changes>, name: &OsStr) {
    match changes {
        Some(watched) => {
            if let Err(problem) = watched.next(name).await {
                warn!(error = format!("{problem:#}"), "the assignments file is looked at now and then only");
                *changes = None;
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

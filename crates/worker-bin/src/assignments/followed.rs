//! One file, looked at whenever it may have changed.
//!
//! Its directory is watched, not the file: editors and programs replace files by renaming. Because a file can also change
//! where no watch sees it (behind a link, or in a directory that was replaced), it is looked at now and then as well.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::Timestamp;

use super::changes::Changes;
use super::file::{self, Seen};
use super::{AssignmentsFile, SourceState};

/// A file that is being written is read when it has been quiet for so long.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the file is looked at although nothing was heard of a change.
const LOOK: Duration = Duration::from_secs(5);

/// A file that is followed.
pub(super) struct Followed {
    file: AssignmentsFile,
    changes: Option<Changes>,
    /// What was seen last; absent where the file is to be taken for changed.
    last: Option<Seen>,
    /// Whether it was looked at since it may have changed.
    is_looked_at: bool,
}

/// What following a file comes to.
pub(super) enum News {
    /// The file is another than before, or was read again by request.
    Seen(Seen),
    /// Another file than this one is requested.
    OtherRequested,
    /// Nobody requests anything any more.
    Ended,
}

impl Followed {
    pub(super) fn new(file: AssignmentsFile) -> Self {
        Self { file, changes: None, last: None, is_looked_at: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Waits until the file says something else, or another one is requested in `requests`. When it was read is told in
    /// `state`.
    pub(super) async fn next(
        &mut self,
        requests: &mut watch::Receiver<Option<AssignmentsFile>>,
        state: &watch::Sender<SourceState>,
    ) -> News {
        loop {
            if !self.is_looked_at
                && let Some(seen) = self.look(state).await
            {
                return News::Seen(seen);
            }
            // Losing the first arm loses news of changes at most, and the file is looked at anyway; the others are
            // cancel-safe.
            tokio::select! {
                () = next_change(&mut self.changes, &self.file.name) => sleep(SETTLE).await,
                () = sleep(LOOK) => {}
                request = requests.changed() => {
                    if request.is_err() {
                        return News::Ended;
                    }
                    if requests.borrow().as_ref() != Some(&self.file) {
                        return News::OtherRequested;
                    }
                    info!(file = %self.file.path.display(), "reading the assignments again");
                    self.last = None;
                }
            }
            self.is_looked_at = false;
        }
    }

    /// Looks at the file; returns what is seen if that is something else than before.
    async fn look(&mut self, state: &watch::Sender<SourceState>) -> Option<Seen> {
        if self.changes.is_none() {
            self.changes = Changes::of(&self.file.directory).ok();
        }
        let seen = look(&self.file.path).await;
        if let Seen::Text(_) = seen {
            state.send_modify(|state| state.read_at = Some(Timestamp::now()));
        }
        self.is_looked_at = true;
        let is_other = self.last.as_ref() != Some(&seen);
        is_other.then(|| self.last.insert(seen).clone())
    }
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

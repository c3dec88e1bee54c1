//! Where a machine's console is read, wherever it is kept.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{ConsoleFiles, ConsoleFilesError, ConsoleRecorder, ConsoleSnapshot};

/// Reads what one machine wrote. Calls may read files: on a runtime they belong on a thread that may block.
pub trait ConsoleSource: Send + Sync {
    /// Bytes written so far.
    fn total(&self) -> u64;

    /// Everything that is kept of it.
    fn snapshot(&self) -> ConsoleSnapshot;

    /// The last `count` lines of what was written from `offset` on, as text, oldest first: blank ones and terminal
    /// control left out, long ones cut.
    fn tail_lines_since(&self, offset: u64, count: usize) -> Vec<String>;

    /// The log in this process' memory, where it is kept in one.
    fn in_memory(self: Arc<Self>) -> Option<Arc<ConsoleRecorder>>;
}

impl ConsoleSource for ConsoleRecorder {
    fn total(&self) -> u64 {
        self.total()
    }

    fn snapshot(&self) -> ConsoleSnapshot {
        self.snapshot()
    }

    fn tail_lines_since(&self, offset: u64, count: usize) -> Vec<String> {
        self.tail_lines_since(offset, count)
    }

    fn in_memory(self: Arc<Self>) -> Option<Arc<ConsoleRecorder>> {
        Some(self)
    }
}

/// The console that lies in a directory, whoever writes it: of its newest boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleDirectory(PathBuf);

impl ConsoleDirectory {
    /// The console in `directory`, which need not be there.
    pub fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Everything that is kept of the newest boot; `None` where there was none.
    ///
    /// # Errors
    /// The directory or a file in it cannot be read.
    pub fn newest(&self) -> Result<Option<ConsoleSnapshot>, ConsoleFilesError> {
        let files = ConsoleFiles::open(&self.0)?;
        files.newest()?.map(|boot| files.snapshot(boot)).transpose()
    }

    fn newest_lines(&self, count: usize) -> Result<Vec<String>, ConsoleFilesError> {
        let files = ConsoleFiles::open(&self.0)?;
        files.newest()?.map_or(Ok(Vec::new()), |boot| files.tail_lines(boot, count))
    }
}

/// What cannot be read is as if it had not been written.
impl ConsoleSource for ConsoleDirectory {
    fn total(&self) -> u64 {
        self.snapshot().total
    }

    fn snapshot(&self) -> ConsoleSnapshot {
        self.newest().ok().flatten().unwrap_or_default()
    }

    /// Those of the newest boot, which is what an offset tells of a console that goes on over boots.
    fn tail_lines_since(&self, _offset: u64, count: usize) -> Vec<String> {
        self.newest_lines(count).unwrap_or_default()
    }

    fn in_memory(self: Arc<Self>) -> Option<Arc<ConsoleRecorder>> {
        None
    }
}

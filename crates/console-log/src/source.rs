//! Where a machine's console is read, wherever it is kept.

use std::sync::Arc;

use crate::{ConsoleRecorder, ConsoleSnapshot};

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

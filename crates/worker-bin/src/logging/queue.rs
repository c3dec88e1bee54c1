//! Lines on their way to the log: a bounded queue between those who log, who never wait, and the one thread that writes.
//!
//! ```text
//!  push ──→ [ at most MAX_LINES, MAX_BYTES ] ──→ next ──→ (the writer's thread) ──→ done
//!    │ full: dropped and counted                                                 │ failed: counted
//! ```

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that may wait.
pub(super) const MAX_LINES: usize = 4096;
/// Bytes that may wait.
pub(super) const MAX_BYTES: usize = 2 << 20;

/// A line, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// To standard error.
    Text(Vec<u8>),
    /// To the journal.
    Record(Vec<u8>),
}

impl Line {
    fn len(&self) -> usize {
        match self {
            Self::Text(bytes) | Self::Record(bytes) => bytes.len(),
        }
    }
}

/// Lines that wait to be written, and how many were lost.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Protects the lines and the counts. Held for moments, never while anything is written.
    state: Mutex<State>,
    /// A line came, or one was written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Whether a line was taken out and is not done yet.
    is_writing: bool,
    dropped: u64,
    /// How many of `dropped` have been told.
    told: u64,
}

impl Queue {
    /// Puts `line` at the end, or drops and counts it where there is no room. Never waits for the log.
    pub(super) fn push(&self, line: Line) {
        let mut state = self.lock();
        if state.lines.len() >= MAX_LINES || state.bytes.saturating_add(line.len()) > MAX_BYTES {
            state.dropped = state.dropped.saturating_add(1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// The next line. Waits for one. Each call is followed by one of [`Queue::done`].
    pub(super) fn next(&self) -> Line {
        let waited = self.changed.wait_while(self.lock(), |state| state.lines.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front().unwrap_or(Line::Text(Vec::new()));
        state.bytes = state.bytes.saturating_sub(line.len());
        state.is_writing = true;
        line
    }

    /// What became of the line that was taken last. Answers how many lines were lost that nobody was told of, when
    /// there is room to tell it.
    pub(super) fn done(&self, outcome: Outcome) -> Option<u64> {
        let mut state = self.lock();
        state.is_writing = false;
        let untold = match outcome {
            Outcome::Written if state.lines.len() < MAX_LINES / 2 && state.bytes < MAX_BYTES / 2 => {
                let untold = state.dropped - state.told;
                state.told = state.dropped;
                Some(untold).filter(|&untold| untold > 0)
            }
            Outcome::Written => None,
            Outcome::Failed => {
                state.dropped = state.dropped.saturating_add(1);
                None
            }
        };
        drop(state);
        self.changed.notify_all();
        untold
    }

    /// How many lines were lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// How many lines wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().lines.len()
    }

    /// Waits until everything is written, but no longer than `limit`; whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        match self.changed.wait_timeout_while(self.lock(), limit, is_busy) {
            Ok((_, waited)) => !waited.timed_out(),
            Err(poisoned) => !poisoned.into_inner().1.timed_out(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is where it should be.
    Written,
    /// The log did not take it.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_tells_when_there_is_room() {
        let queue = Queue::default();
        for _ in 0..MAX_LINES + 3 {
            queue.push(Line::Text(b"x\n".to_vec()));
        }
        assert_eq!(queue.dropped(), 3);
        let mut told = Vec::new();
        for _ in 0..MAX_LINES {
            assert_eq!(queue.next(), Line::Text(b"x\n".to_vec()));
            told.extend(queue.done(Outcome::Written));
        }
        assert_eq!(told, [3], "once");
        assert!(queue.flush(Duration::ZERO));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let queue = Queue::default();
        queue.push(Line::Text(vec![b'x'; MAX_BYTES]));
        queue.push(Line::Text(vec![b'x']));
        assert_eq!(queue.dropped(), 1);
        queue.next();
        queue.push(Line::Text(vec![b'x']));
        assert_eq!(queue.dropped(), 1, "there is room again");
        queue.push(Line::Text(vec![b'x'; MAX_BYTES + 1]));
        assert_eq!(queue.dropped(), 2, "no line is larger than the queue");
    }

    #[test]
    fn a_line_that_was_not_written_is_counted_and_told_later() {
        let queue = Queue::default();
        queue.push(Line::Text(b"a\n".to_vec()));
        queue.push(Line::Text(b"b\n".to_vec()));
        queue.next();
        assert!(!queue.flush(Duration::from_millis(1)), "a line is being written");
        assert_eq!(queue.done(Outcome::Failed), None);
        queue.next();
        assert_eq!(queue.done(Outcome::Written), Some(1));
        assert_eq!(queue.dropped(), 1);
    }
}

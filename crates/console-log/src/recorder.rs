//! One console's log shared between the machine that writes it and any number of readers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::lines::last_lines;
use crate::log::{ConsoleChunk, ConsoleLimits, ConsoleLog, ConsoleSnapshot};

/// How far back lines are looked for. More than any screenful, little enough to decode at once.
const LINES_WINDOW: usize = 64 << 10;

/// The most that a follower is handed at a time.
const FOLLOW_CHUNK: usize = 64 << 10;

/// Keeps what one guest writes. Readers and the writer may be on any thread.
#[derive(Debug)]
pub struct ConsoleRecorder {
    /// Held for the time of a copy at most, never across a wait. Appending keeps the log whole at every step, so
    /// a poisoned lock is used on.
    log: Mutex<ConsoleLog>,
    /// Whether the writer is gone. Followers are also woken by it, unchanged, when there is more to read.
    closed: watch::Sender<bool>,
}

impl ConsoleRecorder {
    /// An empty recorder, and the end to write to it.
    pub fn new(limits: ConsoleLimits) -> (Arc<Self>, ConsoleWriter) {
        let recorder =
            Arc::new(Self { log: Mutex::new(ConsoleLog::new(limits)), closed: watch::Sender::new(false) });
        (recorder.clone(), ConsoleWriter { end: Arc::new(WritingEnd { recorder }) })
    }

    /// Bytes written so far.
    pub fn total(&self) -> u64 {
        self.lock().total()
    }

    /// Everything that is kept. Copies up to the sum of the limits.
    pub fn snapshot(&self) -> ConsoleSnapshot {
        self.lock().snapshot()
    }

    /// At most `limit` bytes from `offset` on; tells how many were missed where they are no longer kept.
    pub fn read_from(&self, offset: u64, limit: usize) -> ConsoleChunk {
        self.lock().read_from(offset, limit)
    }

    /// The last `count` lines of what was written from `offset` on, as text, oldest first: blank ones and terminal
    /// control left out, long ones cut.
    pub fn tail_lines_since(&self, offset: u64, count: usize) -> Vec<String> {
        let latest = {
            let log = self.lock();
            let since = usize::try_from(log.total().saturating_sub(offset)).unwrap_or(usize::MAX);
            log.latest(since.min(LINES_WINDOW))
        };
        last_lines(&latest, count)
    }

    /// Follows the console from `offset` on.
    pub fn follow(self: &Arc<Self>, offset: u64) -> ConsoleFollower {
        ConsoleFollower { recorder: self.clone(), closed: self.closed.subscribe(), offset }
    }

    fn lock(&self) -> MutexGuard<'_, ConsoleLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end of a [`ConsoleRecorder`], for one machine after the other. Followers end when the last clone is
/// dropped.
#[derive(Clone, Debug)]
pub struct ConsoleWriter {
    end: Arc<WritingEnd>,
}

/// Tells followers of the end.
#[derive(Debug)]
struct WritingEnd {
    recorder: Arc<ConsoleRecorder>,
}

impl ConsoleWriter {
    /// Appends what the guest wrote.
    pub fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let recorder = &self.end.recorder;
        recorder.lock().append(bytes);
        // Guests write byte by byte. A follower subscribes before it looks at the log, so one that is not counted
        // here has yet to look.
        if recorder.closed.receiver_count() > 0 {
            recorder.closed.send_modify(|_closed| {});
        }
    }

    /// Bytes written so far.
    pub fn total(&self) -> u64 {
        self.end.recorder.total()
    }

    /// See [`ConsoleRecorder::tail_lines_since`].
    pub fn tail_lines_since(&self, offset: u64, count: usize) -> Vec<String> {
        self.end.recorder.tail_lines_since(offset, count)
    }
}

impl Drop for WritingEnd {
    fn drop(&mut self) {
        self.recorder.closed.send_replace(true);
    }
}

/// Reads a console as it grows.
#[derive(Debug)]
pub struct ConsoleFollower {
    recorder: Arc<ConsoleRecorder>,
    closed: watch::Receiver<bool>,
    offset: u64,
}

impl ConsoleFollower {
    /// The next piece, as soon as there is one; `None` once the machine has ended and everything was read.
    ///
    /// A follower that is too slow is told in [`ConsoleChunk::missed`] what it lost. Cancel-safe.
    pub async fn next(&mut self) -> Option<ConsoleChunk> {
        loop {
            // Before looking, so that what is written while looking wakes this again.
            let closed = *self.closed.borrow_and_update();
            let chunk = self.recorder.read_from(self.offset, FOLLOW_CHUNK);
            if !chunk.bytes.is_empty() {
                self.offset = chunk.next_offset();
                return Some(chunk);
            }
            if closed {
                return None;
            }
            // The recorder is held, and with it the sender: this fails for nothing.
            self.closed.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_gets_everything_and_then_the_end() {
        let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
        let mut follower = recorder.follow(0);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(chunk) = follower.next().await {
                assert_eq!(chunk.missed, 0);
                all.extend(chunk.bytes);
            }
            all
        });
        for piece in [&b"first "[..], b"", b"second"] {
            // Each from a writer of its own: the end is that of the last.
            writer.clone().write(piece);
            tokio::task::yield_now().await;
        }
        writer.write(b"");
        drop(writer);
        assert_eq!(reading.await.expect("the task ends"), b"first second");
        assert_eq!(recorder.total(), 12);
    }

    #[test]
    fn lines_are_those_since_an_offset() {
        let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
        writer.write(b"an earlier life\n");
        let offset = writer.total();
        assert_eq!(recorder.tail_lines_since(offset, 9), [""; 0]);
        writer.write(b"one\ntwo\n");
        assert_eq!(writer.tail_lines_since(offset, 9), ["one", "two"]);
        assert_eq!(recorder.tail_lines_since(u64::MAX, 9), [""; 0]);
        assert_eq!(recorder.tail_lines_since(0, 9), ["an earlier life", "one", "two"]);
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed() {
        let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits { head: 4, tail: 4 });
        let mut follower = recorder.follow(0);
        writer.write(b"0123456789");
        drop(writer);
        let head = follower.next().await.expect("the head");
        assert_eq!((head.missed, &head.bytes[..]), (0, &b"0123"[..]));
        let tail = follower.next().await.expect("the tail");
        assert_eq!((tail.missed, &tail.bytes[..]), (2, &b"6789"[..]));
        assert_eq!(follower.next().await, None);
    }
}

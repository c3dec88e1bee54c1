//! One console's log shared between the machine that writes it and any number of readers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use vm_model::BootTrouble;

use crate::boots::{Boots, Copied, Cursor};
use crate::last_words::LastWords;
use crate::lines::{LINES_WINDOW, last_lines};
use crate::log::{ConsoleChunk, ConsoleLimits, ConsoleLog, ConsoleSnapshot};
use crate::trouble_watch::{CAUSE_WINDOW, TroubleWatch, trouble};

/// The most that a follower is handed at a time.
const FOLLOW_CHUNK: usize = 64 << 10;

/// What a console tells of its guest while it is written, each at most once a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleNews {
    /// Linux has printed the end of a panic after which it stands still.
    StandsStill,
    /// The boot went wrong, and the guest waits for a person.
    BootTrouble(BootTrouble),
}

/// Called on the thread that writes, which must not wait.
pub type Alarm = Box<dyn Fn(ConsoleNews) + Send + Sync>;

/// Wakes who copies a console elsewhere. Called on the thread that writes.
pub(crate) type WakeCopier = Arc<dyn Fn() + Send + Sync>;

/// Keeps what one guest writes. Readers and the writer may be on any thread.
pub struct ConsoleRecorder {
    /// Held for the time of a copy at most, never across a wait. Appending keeps all of it whole at every step, so a
    /// poisoned lock is used on.
    state: Mutex<State>,
    /// Whether the writer is gone. Followers are also woken by it, unchanged, when there is more to read.
    closed: watch::Sender<bool>,
    /// Called when the console tells something of its guest.
    alarm: Option<Alarm>,
}

struct State {
    log: ConsoleLog,
    boots: Boots,
    last_words: LastWords,
    trouble_watch: TroubleWatch,
    copier: Option<Copier>,
}

/// Who copies the console elsewhere.
struct Copier {
    wake: WakeCopier,
    /// It was woken and has not come to the end since.
    is_awake: bool,
}

impl State {
    /// What `bytes`, which were just written, tell of the guest.
    fn news(&mut self, bytes: &[u8]) -> Option<ConsoleNews> {
        let trouble = self.trouble_watch.feed(bytes).and_then(|written| {
            // What earlier boots wrote is not the cause.
            trouble(&self.log.latest(written.min(CAUSE_WINDOW)))
        });
        if self.last_words.feed(bytes) {
            return Some(ConsoleNews::StandsStill);
        }
        trouble.map(ConsoleNews::BootTrouble)
    }

    /// The call that wakes the copier, where it is not awake.
    fn wake(&mut self) -> Option<WakeCopier> {
        let copier = self.copier.as_mut().filter(|copier| !copier.is_awake)?;
        copier.is_awake = true;
        Some(Arc::clone(&copier.wake))
    }
}

impl fmt::Debug for ConsoleRecorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConsoleRecorder").field("total", &self.total()).finish_non_exhaustive()
    }
}

impl ConsoleRecorder {
    /// An empty recorder, and the end to write to it.
    pub fn new(limits: ConsoleLimits) -> (Arc<Self>, ConsoleWriter) {
        Self::build(limits, None)
    }

    /// As [`ConsoleRecorder::new`]. Calls `alarm` when the console tells something of its guest.
    pub fn with_alarm(limits: ConsoleLimits, alarm: Alarm) -> (Arc<Self>, ConsoleWriter) {
        Self::build(limits, Some(alarm))
    }

    fn build(limits: ConsoleLimits, alarm: Option<Alarm>) -> (Arc<Self>, ConsoleWriter) {
        let state = State {
            log: ConsoleLog::new(limits),
            boots: Boots::default(),
            last_words: LastWords::default(),
            trouble_watch: TroubleWatch::default(),
            copier: None,
        };
        let recorder = Arc::new(Self { state: Mutex::new(state), closed: watch::Sender::new(false), alarm });
        (recorder.clone(), ConsoleWriter { end: Arc::new(WritingEnd { recorder }) })
    }

    /// Bytes written so far.
    pub fn total(&self) -> u64 {
        self.lock().log.total()
    }

    /// Everything that is kept. Copies up to the sum of the limits.
    pub fn snapshot(&self) -> ConsoleSnapshot {
        self.lock().log.snapshot()
    }

    /// At most `limit` bytes from `offset` on; tells how many were missed where they are no longer kept.
    pub fn read_from(&self, offset: u64, limit: usize) -> ConsoleChunk {
        self.lock().log.read_from(offset, limit)
    }

    /// The last `count` lines of what was written from `offset` on, as text, oldest first: blank ones and terminal
    /// control left out, long ones cut.
    pub fn tail_lines_since(&self, offset: u64, count: usize) -> Vec<String> {
        let latest = {
            let log = &self.lock().log;
            let since = usize::try_from(log.total().saturating_sub(offset)).unwrap_or(usize::MAX);
            log.latest(since.min(LINES_WINDOW))
        };
        last_lines(&latest, count)
    }

    /// Follows the console from `offset` on.
    pub fn follow(self: &Arc<Self>, offset: u64) -> ConsoleFollower {
        ConsoleFollower { recorder: self.clone(), closed: self.closed.subscribe(), offset }
    }

    /// Has `wake` called at the first write after a copier came to the end. It counts as awake now, and has to begin by
    /// itself.
    pub(crate) fn attach_copier(&self, wake: WakeCopier) {
        self.lock().copier = Some(Copier { wake, is_awake: true });
    }

    /// Has nobody woken any more.
    pub(crate) fn detach_copier(&self) {
        self.lock().copier = None;
    }

    /// See [`Boots::copy_next`]. A copier that is told [`Copied::AtEnd`] is woken when there is more.
    pub(crate) fn copy_next(&self, cursor: &mut Cursor, goal: u64, bytes: &mut Vec<u8>) -> Copied {
        let mut state = self.lock();
        let copied = state.boots.copy_next(&state.log, cursor, goal, bytes);
        if copied == Copied::AtEnd
            && let Some(copier) = &mut state.copier
        {
            copier.is_awake = false;
        }
        copied
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (wake, news) = {
            let mut state = recorder.lock();
            state.log.append(bytes);
            (state.wake(), state.news(bytes))
        };
        if let Some(wake) = wake {
            wake();
        }
        if let (Some(news), Some(alarm)) = (news, &recorder.alarm) {
            alarm(news);
        }
        // Guests write byte by byte. A follower subscribes before it looks at the log, so one that is not counted
        // here has yet to look.
        if recorder.closed.receiver_count() > 0 {
            recorder.closed.send_modify(|_closed| {});
        }
    }

    /// What is written from now on is of another boot. Answers how many bytes were written before.
    pub fn begin_boot(&self) -> u64 {
        let (wake, start) = {
            let mut state = self.end.recorder.lock();
            let start = state.log.total();
            state.boots.begin(start);
            state.last_words = LastWords::default();
            state.trouble_watch = TroubleWatch::default();
            (state.wake(), start)
        };
        if let Some(wake) = wake {
            wake();
        }
        start
    }

    /// The recorder it writes to.
    pub fn recorder(&self) -> &Arc<ConsoleRecorder> {
        &self.end.recorder
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
mod tests;

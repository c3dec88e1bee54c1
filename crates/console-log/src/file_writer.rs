//! Writes the consoles of all machines of a process to their directories, on one thread.
//!
//! ```text
//!   vCPU ── bytes ──▶ ConsoleRecorder (memory) ── wake, once ──▶ inbox ──▶ thread vm-console ──▶ segments
//!   machine's thread ── register, flush, drop ───────────────────▲
//! ```
//!
//! Nothing that a disk does reaches a machine's threads: they leave a note in the inbox and go on. What the thread is
//! late for stays in the recorder's memory; what falls out of that is missing in the files, where the gap is seen. A
//! directory that cannot be written is tried again once a second for as long as there is something to write. A write
//! that the host's kernel does not finish holds up the files of all consoles of the process, and nothing else.
//!
//! `inbox` is what others leave for the thread, `kept_console` writes one console, `pace` decides when.

mod inbox;
mod kept_console;
mod pace;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use syscall_filter::ThreadKind;
use thiserror::Error;
use vm_model::VmId;

use crate::ConsoleRecorder;
use crate::files::FileLimits;
use inbox::{ConsoleKey, Inbox, Note};
use kept_console::KeptConsole;
use pace::Outcome;

/// What the thread keeps of its buffer between writes. A flood makes it grow to a recorder's head or tail.
const SMALL_BUFFER: usize = 64 << 10;

/// Writes consoles to files. Clones are the same writer; its thread ends when the last clone and the last registration
/// are dropped.
#[derive(Clone)]
pub struct ConsoleFileWriter {
    end: Arc<OwnerEnd>,
}

/// Tells the thread that nobody is left who could register a console.
struct OwnerEnd {
    inbox: Arc<Inbox>,
    limits: FileLimits,
}

impl Drop for OwnerEnd {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl fmt::Debug for ConsoleFileWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConsoleFileWriter").field("limits", &self.end.limits).finish_non_exhaustive()
    }
}

impl ConsoleFileWriter {
    /// The name of its thread.
    pub const THREAD: &str = "vm-console";

    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(limits: FileLimits) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let of_thread = Arc::clone(&inbox);
        thread::Builder::new().name(Self::THREAD.to_owned()).spawn(move || {
            syscall_filter::enter(ThreadKind::Console, "");
            write_all(&of_thread);
        })?;
        Ok(Self { end: Arc::new(OwnerEnd { inbox, limits }) })
    }

    /// Begins a new boot in `directory`, and writes there what `recorder` holds and gets, until the answer is dropped.
    /// `vm` is for messages. Waits for no disk.
    ///
    /// A directory is one registration's at a time, and so is a recorder.
    pub fn register(
        &self,
        vm: &VmId,
        recorder: &Arc<ConsoleRecorder>,
        directory: OwnedFd,
    ) -> FileRegistration {
        let console = KeptConsole::new(vm.clone(), Arc::clone(recorder), directory, self.end.limits);
        let key = self.end.inbox.add(console);
        let inbox = Arc::clone(&self.end.inbox);
        recorder.attach_copier(Arc::new(move || inbox.leave(key, Note::Written)));
        // For what was written before.
        self.end.inbox.leave(key, Note::Written);
        FileRegistration { writer: self.clone(), key }
    }
}

/// A console that is being written to files. Dropping it ends that, after one attempt to write the rest.
#[derive(Debug)]
pub struct FileRegistration {
    writer: ConsoleFileWriter,
    key: ConsoleKey,
}

/// Why what was written to a console is not in its files, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FlushError {
    /// Writing failed, as the log says; it is tried again.
    #[error("the console could not be written to its directory")]
    Failed,
    /// It takes longer: a disk may have stopped answering.
    #[error("the console was not written to its directory within {0:?}")]
    Late(Duration),
}

impl FileRegistration {
    /// Waits until everything that was written to the console before this call is in its files: at most for `within`, and
    /// not after a failure.
    ///
    /// # Errors
    /// It is not, or not yet.
    pub fn flush(&self, within: Duration) -> Result<(), FlushError> {
        self.wait(Note::Flush, within)
    }

    /// As [`FileRegistration::flush`], and closes the files and the directory, which nothing touches afterwards. What is
    /// late is still written once, and then closed.
    ///
    /// # Errors
    /// Not everything is in the files, or not yet.
    pub fn close(self, within: Duration) -> Result<(), FlushError> {
        self.wait(Note::Leaves, within)
    }

    fn wait(&self, note: Note, within: Duration) -> Result<(), FlushError> {
        let inbox = &self.writer.end.inbox;
        // A deadline that the clock cannot hold is none that anybody waits for.
        let deadline = Instant::now().checked_add(within);
        match inbox.flush(self.key, note, deadline) {
            Some(true) => Ok(()),
            Some(false) => Err(FlushError::Failed),
            None => Err(FlushError::Late(within)),
        }
    }
}

impl Drop for FileRegistration {
    fn drop(&mut self) {
        self.writer.end.inbox.leave(self.key, Note::Leaves);
        self.writer.end.inbox.forget_flushes(self.key);
    }
}

/// The thread: writes each console when it is due, until none is left and none can come.
fn write_all(inbox: &Inbox) {
    let mut consoles: BTreeMap<ConsoleKey, KeptConsole> = BTreeMap::new();
    let mut buffer = Vec::new();
    loop {
        let due = consoles.values().filter_map(KeptConsole::due).min();
        let mail = inbox.take(due);
        consoles.extend(mail.arrivals);
        let now = Instant::now();
        for (key, note) in mail.notes {
            if let Some(console) = consoles.get_mut(&key) {
                console.take_note(note, now);
            }
        }
        consoles = consoles
            .into_iter()
            .filter_map(|(key, mut console)| {
                if console.due().is_none_or(|due| due > now) {
                    return Some((key, console));
                }
                let flushes = inbox.flushes_asked(key);
                let outcome = console.write(&mut buffer);
                // Whoever waits for its end is answered when its files are closed.
                let staying = (!console.leaves()).then_some((key, console));
                inbox.answer_flushes(key, flushes, outcome != Outcome::Failed);
                staying
            })
            .collect();
        buffer.clear();
        buffer.shrink_to(SMALL_BUFFER);
        if mail.is_closed && consoles.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;

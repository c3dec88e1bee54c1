//! How transfers reach a file without anybody waiting for them: the port, and what its two engines share.
//!
//! ```text
//! start(slot, transfer)… submit()     completions() readable     finished() → slot, transfer, result
//!        event loop ─────────→ kernel or thread ─────────→ event loop
//! ```
//!
//! A slot names one transfer in flight. Its vectors, and with them guest memory, belong to the engine until
//! `finished` gives them back, however long that takes: a device that no longer cares just ignores the result.
//! Which request a slot stands for, and what is written to the guest, is the device's.

mod erasure;
mod files;
mod threaded;
mod uring;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use syscall_filter::ThreadKind;

pub(crate) use self::erasure::{Erasure, Extent};
pub(crate) use self::files::DiskFiles;
pub(crate) use self::threaded::{Backend, ThreadedEngine};
use self::uring::UringEngine;
use crate::virtio::vectors::IoVectors;
use crate::wake::WakeEvent;

/// How transfers reach the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// A restricted `io_uring` where the host has it, else a thread.
    #[default]
    Automatic,
    /// A restricted `io_uring`, or the disk cannot be had.
    Uring,
    /// A thread of the disk's own.
    Thread,
}

/// How transfers do reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// A restricted `io_uring`.
    Uring,
    /// A thread of the disk's own.
    Thread,
}

/// What to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferKind {
    /// Fill the vectors from the file.
    Read,
    /// Write the vectors to the file.
    Write,
    /// Bring all that was written to stable storage.
    Flush,
    /// Discard or zero the extents, the last one first.
    Erase,
    /// Write the vectors, zeros for the last extent, because the file cannot be told to zero it.
    Fill,
}

/// When a change counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When it is in the host's cache.
    Cached,
    /// When it is on stable storage.
    Stable,
}

/// One thing to do with a file.
pub(crate) struct Transfer {
    pub(crate) kind: TransferKind,
    /// Byte offset in the file.
    pub(crate) offset: u64,
    pub(crate) vectors: IoVectors,
    /// What is left to discard or zero, the next one last.
    pub(crate) extents: Vec<Extent>,
    /// Whether a change ends with a flush.
    pub(crate) durability: Durability,
}

/// What one system call's result means for its transfer.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Call again with what is left.
    Again,
    /// All is done, or nothing more can be.
    Done(io::Result<()>),
}

impl Transfer {
    /// A transfer between `vectors` and the file from `offset` on, or a flush.
    pub(crate) fn of_vectors(kind: TransferKind, offset: u64, vectors: IoVectors) -> Self {
        Self { kind, offset, vectors, extents: Vec::new(), durability: Durability::Cached }
    }

    /// Accounts for a system call that moved `result` bytes, or erased an extent. Reads that meet the end of the
    /// file (somebody truncated it) fail, as do writes that get nowhere.
    pub(crate) fn progress(&mut self, result: Result<u64, Errno>) -> Progress {
        if matches!(result, Err(Errno::INTR)) {
            return Progress::Again;
        }
        match self.kind {
            TransferKind::Read => self.moved(result),
            TransferKind::Write => match self.moved(result) {
                Progress::Done(Ok(())) => self.changed(),
                other => other,
            },
            TransferKind::Flush => Progress::Done(result.map(|_zero| ()).map_err(io::Error::from)),
            TransferKind::Erase => self.erased(result),
            TransferKind::Fill => match self.moved(result) {
                Progress::Done(Ok(())) => self.filled(),
                other => other,
            },
        }
    }

    /// All changes were made; what is left is to make them durable, if that is wanted.
    fn changed(&mut self) -> Progress {
        match self.durability {
            Durability::Cached => Progress::Done(Ok(())),
            Durability::Stable => {
                self.kind = TransferKind::Flush;
                Progress::Again
            }
        }
    }

    fn moved(&mut self, result: Result<u64, Errno>) -> Progress {
        let moved = match result {
            Ok(moved) => moved,
            Err(error) => return Progress::Done(Err(error.into())),
        };
        self.vectors.advance(moved);
        self.offset = self.offset.saturating_add(moved);
        match (self.vectors.bytes(), moved) {
            (0, _) => Progress::Done(Ok(())),
            (_, 0) => Progress::Done(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Progress::Again,
        }
    }
}

/// A transfer that is over.
pub(crate) struct Finished {
    pub(crate) slot: u16,
    /// What is left of it, from where it failed.
    pub(crate) transfer: Transfer,
    pub(crate) result: io::Result<()>,
}

/// A file's transfers in flight. Used by one thread at a time.
pub(crate) trait BlockEngine: Send {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// An eventfd that gets an edge for completions not asked for yet.
    fn completions(&self) -> BorrowedFd<'_>;

    /// Gives [`BlockEngine::completions`] an edge, so that its watcher comes back.
    fn wake(&self);

    /// Takes `transfer` under `slot`, to be handed on by the next [`BlockEngine::submit`]. Never waits.
    ///
    /// # Errors
    /// The slot is in use or out of range, or the engine has failed for good: the transfer comes back.
    fn start(&mut self, slot: u16, transfer: Transfer) -> Result<(), Transfer>;

    /// Hands on what was started. Never waits for it.
    fn submit(&mut self);

    /// The next transfer that is over, in any order. Never waits.
    fn finished(&mut self) -> Option<Finished>;

    /// Transfers started and not yet given back by [`BlockEngine::finished`].
    fn in_flight(&self) -> u16;

    /// Waits until [`BlockEngine::finished`] may have something; `false` when `deadline` passed first.
    fn wait(&mut self, deadline: Instant) -> bool;
}

/// Opens the engine of `choice` on `files`, with slots below `slots`.
///
/// # Errors
/// The host refused the chosen engine, or both.
pub(crate) fn open_engine(
    choice: EngineChoice,
    files: DiskFiles,
    slots: u16,
    thread_name: &str,
) -> io::Result<Box<dyn BlockEngine>> {
    match choice {
        EngineChoice::Uring => Ok(Box::new(UringEngine::new(&files, slots, thread_name)?)),
        EngineChoice::Thread => Ok(Box::new(ThreadedEngine::new(Backend::Files(files), slots, thread_name)?)),
        EngineChoice::Automatic => match UringEngine::new(&files, slots, thread_name) {
            Ok(engine) => Ok(Box::new(engine)),
            Err(error) => {
                tracing::info!(disk = thread_name, %error, "no io_uring for this disk, it gets a thread instead");
                Ok(Box::new(ThreadedEngine::new(Backend::Files(files), slots, thread_name)?))
            }
        },
    }
}

/// Ends `engine` without waiting: what is in flight is left to a thread that waits for as long as it takes, because
/// until then the kernel may touch the guest memory that the engine holds.
pub(crate) fn retire(mut engine: Box<dyn BlockEngine>) {
    if settle(&mut *engine, Instant::now()) {
        return;
    }
    tracing::warn!(
        transfers = engine.in_flight(),
        "a disk's transfers have not ended; its guest's memory stays mapped until they do"
    );
    // If even this thread cannot be had, the engine's own end sees to it that its memory is never unmapped.
    let _thread = std::thread::Builder::new().name("disk-settle".to_owned()).spawn(move || {
        syscall_filter::enter(ThreadKind::Undertaker, "");
        while !settle(&mut *engine, Instant::now() + SETTLE_STEP) {}
    });
}

/// How long the last resort waits at a time.
const SETTLE_STEP: Duration = Duration::from_secs(60);

/// Waits until nothing is in flight, ignoring results; `false` when `deadline` passed first.
pub(crate) fn settle(engine: &mut dyn BlockEngine, deadline: Instant) -> bool {
    loop {
        while engine.finished().is_some() {}
        if engine.in_flight() == 0 {
            return true;
        }
        if !engine.wait(deadline) {
            return false;
        }
    }
}

/// Waits for `event` to be rung; `false` when `deadline` passed first. Interruptions are not waited out.
fn wait_readable(event: &WakeEvent, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    // A time too long for the kernel is as good as forever, and the caller comes back anyway.
    let timeout = Timespec::try_from(left.min(SETTLE_STEP)).ok();
    let mut watched = [PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN)];
    let _interrupted = poll(&mut watched, timeout.as_ref());
    Instant::now() < deadline || !watched[0].revents().is_empty()
}

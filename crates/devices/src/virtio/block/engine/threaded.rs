//! Transfers on a thread of the disk's own, one after another, for hosts without `io_uring`.
#![expect(unsafe_code, reason = "vectored system calls on guest memory take raw vectors")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use syscall_filter::ThreadKind;

use super::{BlockEngine, DiskFiles, EngineKind, Finished, Progress, Transfer, TransferKind};
use crate::virtio::block::qcow2::Qcow2Image;
use crate::virtio::vectors::IoVectors;
use crate::wake::WakeEvent;

/// How long the end of a disk waits for its idle thread to end, too.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct ThreadedEngine {
    event: WakeEvent,
    /// `None` while the thread is being ended. Room for every slot, so that sending never waits.
    jobs: Option<SyncSender<Job>>,
    /// Room for every slot, so that the thread never waits for the device.
    results: Receiver<Finished>,
    /// Received while waiting.
    next: Option<Finished>,
    busy: Vec<bool>,
    in_flight: u16,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works on.
pub(crate) enum Backend {
    /// A raw file.
    Files(DiskFiles),
    /// An image of another format.
    Qcow2(Box<Qcow2Image>),
    /// An image that its library panicked on.
    Broken,
}

struct Job {
    slot: u16,
    transfer: Transfer,
}

impl ThreadedEngine {
    /// # Errors
    /// No thread or no descriptor could be had.
    pub(crate) fn new(mut backend: Backend, slots: u16, thread_name: &str) -> io::Result<Self> {
        let event = WakeEvent::new()?;
        let rung = event.try_clone()?;
        let (jobs, accepted) = sync_channel::<Job>(usize::from(slots));
        let (done, results) = sync_channel(usize::from(slots));
        let thread = std::thread::Builder::new().name(thread_name.replace('\0', "")).spawn(move || {
            syscall_filter::enter(ThreadKind::Disk, "");
            for job in accepted {
                if done.send(backend.run(job)).is_err() {
                    return;
                }
                rung.ring();
            }
        })?;
        Ok(Self {
            event,
            jobs: Some(jobs),
            results,
            next: None,
            busy: vec![false; usize::from(slots)],
            in_flight: 0,
            thread: Some(thread),
        })
    }
}

impl ThreadedEngine {
    /// A transfer that went down with the thread, and so will touch nothing any more.
    fn lost(&self) -> Option<Finished> {
        let slot = self.busy.iter().position(|busy| *busy)?;
        Some(Finished {
            slot: u16::try_from(slot).ok()?,
            // Its memory was let go of with the thread.
            transfer: Transfer::of_vectors(TransferKind::Flush, 0, IoVectors::default()),
            result: Err(io::ErrorKind::BrokenPipe.into()),
        })
    }
}

impl BlockEngine for ThreadedEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Thread
    }

    fn completions(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn wake(&self) {
        self.event.ring();
    }

    fn start(&mut self, slot: u16, transfer: Transfer) -> Result<(), Transfer> {
        let (Some(jobs), Some(busy @ false)) = (&self.jobs, self.busy.get_mut(usize::from(slot))) else {
            return Err(transfer);
        };
        match jobs.try_send(Job { slot, transfer }) {
            Ok(()) => {
                *busy = true;
                self.in_flight += 1;
                Ok(())
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Err(job.transfer),
        }
    }

    fn submit(&mut self) {}

    fn finished(&mut self) -> Option<Finished> {
        let finished = match self.next.take() {
            Some(finished) => finished,
            None => match self.results.try_recv() {
                Ok(finished) => finished,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => self.lost()?,
            },
        };
        self.in_flight -= 1;
        self.busy[usize::from(finished.slot)] = false;
        Some(finished)
    }

    fn in_flight(&self) -> u16 {
        self.in_flight
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        if self.next.is_some() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.results.recv_timeout(left) {
            Ok(finished) => {
                self.next = Some(finished);
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }
}

impl Drop for ThreadedEngine {
    /// Ends and joins the thread. One that is stuck in a transfer is left behind: it owns all that it touches.
    fn drop(&mut self) {
        self.jobs = None;
        let deadline = Instant::now() + JOIN_PATIENCE;
        let ended = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.results.recv_timeout(left) {
                Ok(_ignored) => {}
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if let Some(thread) = self.thread.take()
            && ended
        {
            // A panic of the thread has nothing to tell: its transfers never finished, which the device saw.
            let _panicked = thread.join();
        }
    }
}

impl Backend {
    fn run(&mut self, job: Job) -> Finished {
        let Job { slot, mut transfer } = job;
        let result = self.carry_out(&mut transfer);
        Finished { slot, transfer, result }
    }

    /// Carries `transfer` out, however long that takes.
    pub(crate) fn carry_out(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        let image = match self {
            Self::Files(files) => return run(files, transfer),
            Self::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
            Self::Qcow2(image) => image,
        };
        catch_unwind(AssertUnwindSafe(|| image.run(transfer))).unwrap_or_else(|_panic| {
            // What panicked on this image once is not run on it again, not even to clean up after it.
            std::mem::forget(std::mem::replace(self, Self::Broken));
            Err(io::ErrorKind::InvalidData.into())
        })
    }
}

fn run(files: &DiskFiles, transfer: &mut Transfer) -> io::Result<()> {
    loop {
        let direct = files.direct.as_ref().filter(|direct| direct.alignment.suits(transfer));
        let file = direct.map_or(&files.cached, |direct| &direct.file);
        let moved = call(file.as_fd(), transfer);
        if let Progress::Done(result) = transfer.progress(moved) {
            return result;
        }
    }
}

fn call(file: BorrowedFd<'_>, transfer: &Transfer) -> Result<u64, Errno> {
    if transfer.kind == TransferKind::Erase {
        return match transfer.extents.last() {
            Some(extent) => {
                rustix::fs::fallocate(file, extent.mode(), extent.offset, extent.bytes).map(|()| 0)
            }
            None => Ok(0),
        };
    }
    let vectors = transfer.vectors.as_slice();
    let count = i32::try_from(vectors.len()).map_err(|_too_many| Errno::INVAL)?;
    let offset = i64::try_from(transfer.offset).map_err(|_too_large| Errno::INVAL)?;
    let (file, start) = (file.as_raw_fd(), vectors.as_ptr());
    let moved = match transfer.kind {
        // SAFETY: the vectors point into guest memory that `transfer` keeps mapped during the call; that others
        // change those bytes meanwhile is the kernel's to bear, which copies without looking.
        TransferKind::Read => unsafe { libc::preadv(file, start, count, offset) },
        // SAFETY: as above; the kernel only reads what the vectors point to.
        TransferKind::Write | TransferKind::Fill => unsafe { libc::pwritev(file, start, count, offset) },
        // SAFETY: no memory is involved.
        TransferKind::Flush | TransferKind::Erase => unsafe { libc::fdatasync(file) as isize },
    };
    u64::try_from(moved)
        .map_err(|_failed| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

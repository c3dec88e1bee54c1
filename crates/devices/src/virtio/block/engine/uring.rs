//! Transfers through an `io_uring` that can do nothing but read, write, erase and sync the disk's file.
//!
//! System call filters do not see what a ring is asked to do, so the ring itself is restricted before it is
//! enabled: four operations, on registered files only, and no further registration. A process that is taken
//! over through this ring gains no file it did not have.
//!
//! Neither `SINGLE_ISSUER` nor `COOP_TASKRUN` is set: besides the event loop, a vCPU thread uses the ring when it resets
//! the device, and the thread that settles an ended machine's transfers. Neither is the one that submitted, which may
//! be gone or busy elsewhere: the kernel must be able to end transfers all the same.
#![expect(
    unsafe_code,
    reason = "the kernel is handed pointers that must stay good until it is done with them"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::files::Alignment;
use super::{BlockEngine, DiskFiles, EngineKind, Finished, Progress, Transfer, TransferKind, wait_readable};
use crate::wake::WakeEvent;

/// The file behind the host's page cache, among the registered ones.
const CACHED: Fixed = Fixed(0);
/// The file past the cache, where there is one.
const DIRECT: Fixed = Fixed(1);

/// Transfers of more bytes are made by the kernel's workers from the start: what lies in the page cache would be
/// copied by the thread that submits, which is the event loop, and a guest may ask for 4 GiB at once.
const INLINE_BYTES_MAX: u64 = 2 << 20;

pub(super) struct UringEngine {
    ring: IoUring,
    event: WakeEvent,
    /// What transfers must be like to pass the cache by; `None` where none does.
    direct: Option<Alignment>,
    /// Indexed by slot. Transfers in here are what makes the kernel's pointers good: none leaves before its
    /// completion arrived.
    slots: Vec<Slot>,
    /// Slots whose entries stand in the submission ring, in order.
    unsubmitted: VecDeque<u16>,
    in_flight: u16,
    /// The ring refused to take entries; those in it must never be submitted again.
    failed: Option<Errno>,
    /// Names the disk in the log.
    disk: String,
}

#[derive(Default)]
struct Slot {
    /// Tells completions of this use of the slot from those of earlier ones.
    generation: u32,
    transfer: Option<Transfer>,
}

impl UringEngine {
    /// # Errors
    /// The kernel has no `io_uring`, forbids it, or cannot restrict it (before 5.10).
    pub(super) fn new(files: &DiskFiles, slots: u16, disk: &str) -> io::Result<Self> {
        let event = WakeEvent::new()?;
        let ring = IoUring::builder().dontfork().setup_r_disabled().build(u32::from(slots.max(1)))?;
        let submitter = ring.submitter();
        // The ring holds the files from here on, whatever becomes of these descriptors.
        let direct = files.direct.iter().map(|direct| &direct.file);
        let registered: Vec<_> =
            std::iter::once(&files.cached).chain(direct).map(AsRawFd::as_raw_fd).collect();
        submitter.register_files(&registered)?;
        submitter.register_eventfd(event.as_fd().as_raw_fd())?;
        let fixed_file = Flags::FIXED_FILE.bits();
        let asynchronous = Flags::ASYNC.bits();
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_allowed(fixed_file | asynchronous),
            Restriction::sqe_flags_required(fixed_file),
        ])?;
        submitter.register_enable_rings()?;
        let mut table = Vec::new();
        table.resize_with(usize::from(slots), Slot::default);
        Ok(Self {
            ring,
            event,
            direct: files.alignment(),
            slots: table,
            unsubmitted: VecDeque::with_capacity(usize::from(slots)),
            in_flight: 0,
            failed: None,
            disk: disk.to_owned(),
        })
    }

    /// Puts the entry of the transfer in `slot` into the submission ring; `false` when it is full, which a ring
    /// with an entry for each slot never is.
    fn push(&mut self, slot: u16) -> bool {
        let Some((generation, transfer)) = self.transfer(slot) else {
            return false;
        };
        let file =
            if self.direct.is_some_and(|alignment| alignment.suits(transfer)) { DIRECT } else { CACHED };
        let entry = entry(file, transfer).user_data(u64::from(generation) << 16 | u64::from(slot));
        // SAFETY: the entry's vectors and the guest memory behind them are owned by the transfer in `slots`,
        // which this engine neither changes nor drops before the entry's completion arrived.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        if pushed {
            self.unsubmitted.push_back(slot);
        }
        pushed
    }

    fn transfer(&self, slot: u16) -> Option<(u32, &Transfer)> {
        let slot = self.slots.get(usize::from(slot))?;
        Some((slot.generation, slot.transfer.as_ref()?))
    }

    /// Frees `slot` and gives its transfer's end out.
    fn finish(&mut self, slot: u16, result: io::Result<()>) -> Option<Finished> {
        let place = self.slots.get_mut(usize::from(slot))?;
        let transfer = place.transfer.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.in_flight -= 1;
        Some(Finished { slot, transfer, result })
    }

    /// Deals with one completion; the end of its transfer, if it is that.
    fn complete(&mut self, user_data: u64, result: i32) -> Option<Finished> {
        let slot = u16::try_from(user_data & 0xffff).ok()?;
        let place = self.slots.get_mut(usize::from(slot))?;
        if u64::from(place.generation) != user_data >> 16 {
            return None;
        }
        let moved = u64::try_from(result).map_err(|_negative| Errno::from_raw_os_error(-result));
        match place.transfer.as_mut()?.progress(moved) {
            Progress::Done(result) => self.finish(slot, result),
            Progress::Again if self.failed.is_none() && self.push(slot) => None,
            Progress::Again => self.finish(slot, Err(self.failure())),
        }
    }

    fn failure(&self) -> io::Error {
        self.failed.unwrap_or(Errno::IO).into()
    }
}

impl BlockEngine for UringEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Uring
    }

    fn completions(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn wake(&self) {
        self.event.ring();
    }

    fn start(&mut self, slot: u16, transfer: Transfer) -> Result<(), Transfer> {
        let Some(place) = self
            .slots
            .get_mut(usize::from(slot))
            .filter(|place| self.failed.is_none() && place.transfer.is_none())
        else {
            return Err(transfer);
        };
        place.transfer = Some(transfer);
        self.in_flight += 1;
        if self.push(slot) {
            return Ok(());
        }
        self.in_flight -= 1;
        match self.slots[usize::from(slot)].transfer.take() {
            Some(transfer) => Err(transfer),
            None => Ok(()),
        }
    }

    fn submit(&mut self) {
        if self.failed.is_some() || self.unsubmitted.is_empty() {
            return;
        }
        // Whoever submits looks for completions right after: those that come at once need no event.
        self.ring.completion().disable_eventfd();
        while !self.unsubmitted.is_empty() {
            match self.ring.submit() {
                Ok(count) if count > 0 => {
                    self.unsubmitted.drain(..count.min(self.unsubmitted.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => {
                    self.event.ring();
                    break;
                }
                Err(error) => match Errno::from_io_error(&error) {
                    // Short of memory for now: the event brings the event loop back here.
                    Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {
                        self.event.ring();
                        break;
                    }
                    other => {
                        self.failed = Some(other.unwrap_or(Errno::IO));
                        let disk = self.disk.as_str();
                        tracing::error!(disk, %error, "a disk's io_uring takes no transfers any more; all of them fail");
                        break;
                    }
                },
            }
        }
        self.ring.completion().enable_eventfd();
        // A completion is seen either by the look that follows or by the event: the flag must be visible first.
        fence(Ordering::SeqCst);
    }

    fn finished(&mut self) -> Option<Finished> {
        loop {
            let completion = self.ring.completion().next();
            if let Some(completion) = completion {
                if let Some(finished) = self.complete(completion.user_data(), completion.result()) {
                    return Some(finished);
                }
            } else if self.failed.is_some() {
                let slot = self.unsubmitted.pop_front()?;
                return self.finish(slot, Err(self.failure()));
            } else if self.unsubmitted.is_empty() {
                return None;
            } else {
                let before = self.unsubmitted.len();
                self.submit();
                if self.failed.is_none() && self.unsubmitted.len() == before {
                    return None;
                }
            }
        }
    }

    fn in_flight(&self) -> u16 {
        self.in_flight
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        self.event.take();
        self.submit();
        if !self.ring.completion().is_empty() || self.failed.is_some() && !self.unsubmitted.is_empty() {
            return true;
        }
        wait_readable(&self.event, deadline)
    }
}

impl Drop for UringEngine {
    /// Closing a ring does not wait for its transfers. Their memory is then never given back, which is a leak
    /// where the alternative is a kernel writing into whatever is mapped there next.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

fn entry(file: Fixed, transfer: &Transfer) -> Entry {
    let entry = operation(file, transfer);
    if transfer.vectors.bytes() > INLINE_BYTES_MAX { entry.flags(Flags::ASYNC) } else { entry }
}

fn operation(file: Fixed, transfer: &Transfer) -> Entry {
    let vectors = transfer.vectors.as_slice();
    // At most `VECTORS_MAX`.
    let count = u32::try_from(vectors.len()).unwrap_or(u32::MAX);
    match transfer.kind {
        TransferKind::Read => {
            opcode::Readv::new(file, vectors.as_ptr(), count).offset(transfer.offset).build()
        }
        TransferKind::Write | TransferKind::Fill => {
            opcode::Writev::new(file, vectors.as_ptr(), count).offset(transfer.offset).build()
        }
        TransferKind::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        TransferKind::Erase => match transfer.extents.last() {
            Some(extent) => opcode::Fallocate::new(file, extent.bytes)
                .offset(extent.offset)
                // The flags are a handful of low bits.
                .mode(extent.mode().bits().cast_signed())
                .build(),
            None => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        },
    }
}

#[cfg(test)]
impl UringEngine {
    pub(super) fn ring(&mut self) -> &mut IoUring {
        &mut self.ring
    }

    /// Puts a ring in this one's place that the kernel takes no entries from.
    pub(super) fn break_ring(&mut self) {
        self.ring = IoUring::builder().setup_r_disabled().build(8).unwrap();
    }

    /// Pushes an entry that refers to no memory.
    pub(super) fn push_raw(&mut self, entry: &Entry) {
        // SAFETY: the callers' entries have no pointers.
        unsafe { self.ring.submission().push(entry) }.expect("the ring has room");
    }

    pub(super) fn complete_for_test(&mut self, user_data: u64) -> Option<Finished> {
        self.complete(user_data, 0)
    }
}

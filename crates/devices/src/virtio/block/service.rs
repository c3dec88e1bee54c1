//! The way of a request: from a queue to the engine (`accept`), and from there back to the guest.

use std::sync::Arc;
use std::time::Instant;

use super::counters::BlockCounters;
use super::disk::DiskSerial;
use super::engine::{BlockEngine, Durability, Finished};
use super::file_end::FileEnd;
use super::kept::{Attempt, KeptRequests};
use super::lanes::Lanes;
use super::request::{Request, Status};
use super::shape::{DiskShape, SECTOR_BYTES};
use super::slots::{InFlight, Slots};
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::rate_limiter::RateLimiter;
use crate::virtio::vectors::{IoVectors, mark_written};

mod accept;

/// When a write counts as done (virtio 1.2 §5.2.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// When it is in the host's cache: the driver agreed to flush.
    Back,
    /// When it is durable: the driver does not know of flushing.
    Through,
}

/// How a request ended, and when that was noticed.
#[derive(Clone, Copy)]
struct Ended {
    succeeded: bool,
    at: Instant,
}

/// What serving requests takes, whether or not there are queues to serve.
pub(super) struct Service {
    pub(super) engine: Box<dyn BlockEngine>,
    pub(super) slots: Slots,
    /// Shrinks when the file is truncated.
    pub(super) shape: DiskShape,
    /// `None` where the file is not watched here.
    pub(super) end: Option<FileEnd>,
    pub(super) serial: DiskSerial,
    pub(super) limiter: Option<RateLimiter>,
    pub(super) kept: KeptRequests,
    pub(super) counters: Arc<BlockCounters>,
}

impl Service {
    /// One turn: completions out, new requests in, and once more completions, because many are there at once.
    /// Takes no more requests of a queue than its size, and none after [`TURN_BYTES`], then asks to be called again.
    /// Takes none of a disk in trouble, not even in the turn in which that ends: its guest may be paused.
    pub(super) fn turn(&mut self, lanes: &mut Lanes, mode: WriteMode) -> Result<(), QueueFault> {
        self.look_at_end();
        let in_trouble = self.kept.any();
        self.finish_requests(lanes)?;
        let limited = if in_trouble || self.kept.any() { false } else { self.accept_requests(lanes, mode)? };
        self.engine.submit();
        self.finish_requests(lanes)?;
        lanes.notify()?;
        // Without a free slot, in trouble or under the limit, something else comes back here.
        if lanes.any_pending() && self.slots.has_free() && !self.kept.any() && !limited {
            self.engine.wake();
        }
        Ok(())
    }

    /// Tries again what was kept; the next turn hands it on.
    pub(super) fn retry(&mut self, lanes: &mut Lanes) -> Result<(), QueueFault> {
        let mut told = Ok(());
        for (slot, transfer) in self.kept.take_waiting() {
            // An engine that has failed for good refuses each.
            if let Err(transfer) = self.engine.start(slot, transfer) {
                let ended = Ended { succeeded: false, at: Instant::now() };
                told = told.and(self.answer_transfer(lanes, slot, transfer.vectors, ended));
            }
        }
        told
    }

    /// Takes notice of a file that became shorter. Comes before new requests, which must not reach past its end, and
    /// before results, which are not to be believed there.
    pub(super) fn look_at_end(&mut self) {
        let Some(end) = &mut self.end else { return };
        if let Some(sectors) = end.look(|| self.slots.first_change()) {
            self.shape.sectors = sectors;
        }
    }

    /// Forgets who waits for what is in flight.
    pub(super) fn abandon_all(&mut self) {
        if let Some(end) = &mut self.end {
            end.note_change(self.slots.first_change());
        }
        self.slots.abandon_all();
        for (slot, transfer) in self.kept.abandon() {
            self.slots.release(slot, transfer.vectors);
        }
    }

    /// Frees the slot of a transfer that is over, and tells who waited for it.
    pub(super) fn release(&mut self, slot: u16, vectors: IoVectors) -> Option<InFlight> {
        let in_flight = self.slots.release(slot, vectors)?;
        if in_flight.request.changes_the_disk()
            && let Some(end) = &mut self.end
        {
            end.note_change(in_flight.span.start);
        }
        Some(in_flight)
    }

    /// Completes what is over in the queues it came from, but for what the host could not carry out and is kept.
    pub(super) fn finish_requests(&mut self, lanes: &mut Lanes) -> Result<(), QueueFault> {
        let mut now = None;
        while let Some(finished) = self.engine.finished() {
            // Once for all that are there: what they add to each other's time is less than reading the clock for each.
            let at = *now.get_or_insert_with(Instant::now);
            let Finished { slot, transfer, result } = finished;
            let end = self.shape.sectors * SECTOR_BYTES;
            let occupant = self.slots.occupant(slot).filter(|in_flight| in_flight.span.end <= end);
            if let Err(error) = &result
                && let Some(in_flight) = occupant
                && let Some(errno) = self.kept.reason_to_keep(&transfer, error)
            {
                let attempt = std::mem::replace(&mut in_flight.attempt, Attempt::Repeated);
                self.kept.keep(slot, transfer, errno, attempt);
            } else {
                let ended = Ended { succeeded: result.is_ok(), at };
                self.answer_transfer(lanes, slot, transfer.vectors, ended)?;
            }
        }
        Ok(())
    }

    /// Frees the slot of a transfer that is over, and tells whoever waited for it.
    fn answer_transfer(
        &mut self,
        lanes: &mut Lanes,
        slot: u16,
        vectors: IoVectors,
        ended: Ended,
    ) -> Result<(), QueueFault> {
        let Some(in_flight) = self.release(slot, vectors) else { return Ok(()) };
        if in_flight.attempt == Attempt::Repeated {
            self.kept.ended();
        }
        let Some(lane) = lanes.get_mut(in_flight.lane) else { return Ok(()) };
        let is_there = in_flight.span.end <= self.shape.sectors * SECTOR_BYTES;
        let ended = Ended { succeeded: ended.succeeded && is_there, ..ended };
        self.complete(&mut lane.queue, &in_flight, ended)
    }

    /// Tells the guest how its request ended, and counts it.
    fn complete(&self, queue: &mut Queue, in_flight: &InFlight, ended: Ended) -> Result<(), QueueFault> {
        let InFlight { chain, request, taken_at, .. } = in_flight;
        // Changed pages are marked after a failure, too: some may have been filled.
        let filled = match *request {
            Request::Read { bytes, .. } => {
                mark_written(queue.memory(), chain.writable(), bytes);
                bytes
            }
            Request::SerialNumber { bytes } => bytes as u64,
            Request::Write { .. } | Request::Flush | Request::Erase { .. } => 0,
        };
        if !ended.succeeded {
            self.counters.count_error();
            return answer(queue, chain, Status::IoError, 0);
        }
        let took = ended.at.saturating_duration_since(*taken_at);
        match *request {
            Request::Read { bytes, .. } => self.counters.count_read(bytes, took),
            Request::Write { bytes, .. } => self.counters.count_write(bytes, took),
            Request::Flush => self.counters.count_flush(took),
            Request::Erase { .. } => self.counters.count_erase(),
            Request::SerialNumber { .. } => {}
        }
        answer(queue, chain, Status::Ok, filled)
    }
}

impl WriteMode {
    fn durability(self) -> Durability {
        match self {
            Self::Back => Durability::Cached,
            Self::Through => Durability::Stable,
        }
    }
}

/// Writes `status` into the chain's last byte and gives it back, `filled` bytes of data before it written.
fn answer(queue: &mut Queue, chain: &Chain, status: Status, filled: u64) -> Result<(), QueueFault> {
    let place = chain.writable_len().saturating_sub(1);
    // The place is in the chain, and the chain in memory: both were checked when it was taken.
    let _written = chain.write_at(queue.memory(), place, &[status.byte()]);
    // What is reported as written must be so from the first byte on without a gap (§2.7.8.2).
    let reported = if filled == place { place + 1 } else { filled };
    queue.complete(chain.head(), u32::try_from(reported).unwrap_or(u32::MAX))
}

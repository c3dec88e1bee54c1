//! The way of a request: from a queue to the engine, and from there back to the guest.

use std::sync::Arc;
use std::time::Instant;

use super::counters::BlockCounters;
use super::disk::DiskSerial;
use super::engine::{BlockEngine, Durability, Extent, Finished, Transfer, TransferKind};
use super::file_end::FileEnd;
use super::kept::{Attempt, KeptRequests};
use super::lanes::Lanes;
use super::request::{HEADER_BYTES, Rejection, Request, Status, read_extents};
use super::shape::{DiskShape, SECTOR_BYTES};
use super::slots::{InFlight, Slots};
use crate::memory::GuestMemory;
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::rate_limiter::RateLimiter;
use crate::virtio::vectors::{IoVectors, VectorsError, mark_written};

/// When a write counts as done (virtio 1.2 §5.2.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// When it is in the host's cache: the driver agreed to flush.
    Back,
    /// When it is durable: the driver does not know of flushing.
    Through,
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

/// What stopped the taking of requests from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// There are none left; its doorbell tells of the next.
    Empty,
    /// It has had its share of this turn.
    Share,
    /// No slot is free; a completion comes back here.
    Slots,
    /// The rate limit is reached; its timer comes back here.
    RateLimit,
}

/// Whose request it is, and how its writes are to be done.
#[derive(Clone, Copy)]
struct Origin {
    lane: u16,
    mode: WriteMode,
}

/// Bytes of requests after which a turn ends: what is in the page cache is copied during the turn.
const TURN_BYTES: u64 = 32 << 20;
/// Bytes that every buffer counts for besides its own: a guest may cut a request into a thousand.
const BUFFER_COST: u64 = 4096;

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
                told = told.and(self.answer_transfer(lanes, slot, transfer.vectors, false));
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
        while let Some(finished) = self.engine.finished() {
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
                self.answer_transfer(lanes, slot, transfer.vectors, result.is_ok())?;
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
        succeeded: bool,
    ) -> Result<(), QueueFault> {
        let Some(in_flight) = self.release(slot, vectors) else { return Ok(()) };
        if in_flight.attempt == Attempt::Repeated {
            self.kept.ended();
        }
        let Some(lane) = lanes.get_mut(in_flight.lane) else { return Ok(()) };
        let is_there = in_flight.span.end <= self.shape.sectors * SECTOR_BYTES;
        self.complete(&mut lane.queue, &in_flight, succeeded && is_there)
    }

    /// Starts requests of every queue that may have some; whether the rate limit was reached. No queue is served
    /// past it, so that small requests do not starve a large one, which is the first of the next turn.
    fn accept_requests(&mut self, lanes: &mut Lanes, mode: WriteMode) -> Result<bool, QueueFault> {
        let mut bytes = TURN_BYTES;
        for index in lanes.order() {
            let Some(lane) = lanes.get_mut(index).filter(|lane| lane.pending) else {
                continue;
            };
            let stop = self.accept_from(&mut lane.queue, Origin { lane: index, mode }, &mut bytes)?;
            lane.pending = stop != Stop::Empty;
            match stop {
                Stop::Empty | Stop::Share => {}
                Stop::Slots => {
                    lanes.start_with(index);
                    return Ok(false);
                }
                Stop::RateLimit => {
                    lanes.start_with(index);
                    return Ok(true);
                }
            }
        }
        lanes.rotate();
        Ok(false)
    }

    /// As [`Service::accept_requests`], from one queue; `bytes` are what the turn may yet take.
    fn accept_from(
        &mut self,
        queue: &mut Queue,
        origin: Origin,
        bytes: &mut u64,
    ) -> Result<Stop, QueueFault> {
        let mut share = queue.size();
        loop {
            queue.suppress_doorbells();
            while share > 0 && *bytes > 0 && self.slots.has_free() {
                let Some(chain) = queue.pop()? else { break };
                share -= 1;
                *bytes = bytes.saturating_sub(cost(&chain));
                if !self.accept(queue, chain, origin)? {
                    queue.rewind(1);
                    return Ok(Stop::RateLimit);
                }
            }
            if !self.slots.has_free() {
                return Ok(Stop::Slots);
            }
            if share == 0 || *bytes == 0 {
                return Ok(Stop::Share);
            }
            if !queue.enable_doorbells()? {
                return Ok(Stop::Empty);
            }
        }
    }

    /// Answers or starts the request in `chain`; `false` if the rate limit leaves it for later.
    fn accept(&mut self, queue: &mut Queue, chain: Chain, origin: Origin) -> Result<bool, QueueFault> {
        let request = match Request::parse(&chain, queue.memory(), &self.shape) {
            Ok(request) => request,
            Err(rejection) => return self.reject(queue, &chain, rejection).map(|()| true),
        };
        let extents = match self.extents(&request, &chain, queue.memory()) {
            Ok(extents) => extents,
            Err(status) => {
                return self.reject(queue, &chain, Rejection::Answer(status)).map(|()| true);
            }
        };
        if let Some(limiter) = &mut self.limiter
            && !limiter.admit(Instant::now(), request.charge(&extents))
        {
            return Ok(false);
        }
        let span = request.span(&extents);
        let in_flight = InFlight { lane: origin.lane, chain, request, span, attempt: Attempt::First };
        match request {
            Request::SerialNumber { bytes } => {
                // The range was cut to the chain's.
                let told = in_flight.chain.write_at(queue.memory(), 0, &self.serial.bytes()[..bytes]);
                self.complete(queue, &in_flight, told.is_ok())
            }
            Request::Read { bytes: 0, .. } | Request::Write { bytes: 0, .. } => {
                self.complete(queue, &in_flight, true)
            }
            Request::Read { .. } | Request::Write { .. } | Request::Flush => {
                self.start_vectors(queue, in_flight, origin.mode)
            }
            Request::Erase { .. } if extents.is_empty() => self.complete(queue, &in_flight, true),
            Request::Erase { .. } => self.start_erase(queue, in_flight, origin.mode, extents),
        }
        .map(|()| true)
    }

    /// What `request` erases: nothing, unless that is what it is for.
    fn extents(&self, request: &Request, chain: &Chain, memory: &GuestMemory) -> Result<Vec<Extent>, Status> {
        match *request {
            Request::Erase { kind, segments } => read_extents(kind, segments, chain, memory, &self.shape),
            Request::Read { .. } | Request::Write { .. } | Request::Flush | Request::SerialNumber { .. } => {
                Ok(Vec::new())
            }
        }
    }

    fn reject(&self, queue: &mut Queue, chain: &Chain, rejection: Rejection) -> Result<(), QueueFault> {
        self.counters.count_error();
        match rejection {
            Rejection::Answer(status) => answer(queue, chain, status, 0),
            Rejection::NoStatus => queue.complete(chain.head(), 0),
        }
    }

    fn start_erase(
        &mut self,
        queue: &mut Queue,
        in_flight: InFlight,
        mode: WriteMode,
        extents: Vec<Extent>,
    ) -> Result<(), QueueFault> {
        let Some((slot, vectors)) = self.slots.take() else {
            return self.complete(queue, &in_flight, false);
        };
        let durability = mode.durability();
        self.start(
            queue,
            slot,
            in_flight,
            Transfer { kind: TransferKind::Erase, offset: 0, vectors, extents, durability },
        )
    }

    fn start_vectors(
        &mut self,
        queue: &mut Queue,
        in_flight: InFlight,
        mode: WriteMode,
    ) -> Result<(), QueueFault> {
        let Some((slot, mut vectors)) = self.slots.take() else {
            return self.complete(queue, &in_flight, false);
        };
        let (memory, chain) = (queue.memory(), &in_flight.chain);
        let prepared: Result<_, VectorsError> = match in_flight.request {
            Request::Read { offset, bytes } => {
                vectors.append(memory, chain.writable(), 0, bytes).map(|()| (TransferKind::Read, offset))
            }
            Request::Write { offset, bytes } => vectors
                .append(memory, chain.readable(), HEADER_BYTES, bytes)
                .map(|()| (TransferKind::Write, offset)),
            Request::Flush | Request::SerialNumber { .. } | Request::Erase { .. } => {
                Ok((TransferKind::Flush, 0))
            }
        };
        let Ok((kind, offset)) = prepared else {
            self.slots.release(slot, vectors);
            return self.complete(queue, &in_flight, false);
        };
        let transfer = Transfer::of_vectors(kind, offset, vectors);
        self.start(queue, slot, in_flight, Transfer { durability: mode.durability(), ..transfer })
    }

    fn start(
        &mut self,
        queue: &mut Queue,
        slot: u16,
        in_flight: InFlight,
        transfer: Transfer,
    ) -> Result<(), QueueFault> {
        if let Err(Transfer { vectors, .. }) = self.engine.start(slot, transfer) {
            self.slots.release(slot, vectors);
            return self.complete(queue, &in_flight, false);
        }
        self.slots.occupy(slot, in_flight);
        Ok(())
    }

    /// Tells the guest how its request ended, and counts it.
    fn complete(&self, queue: &mut Queue, in_flight: &InFlight, succeeded: bool) -> Result<(), QueueFault> {
        let InFlight { chain, request, .. } = in_flight;
        // Changed pages are marked after a failure, too: some may have been filled.
        let filled = match *request {
            Request::Read { bytes, .. } => {
                mark_written(queue.memory(), chain.writable(), bytes);
                bytes
            }
            Request::SerialNumber { bytes } => bytes as u64,
            Request::Write { .. } | Request::Flush | Request::Erase { .. } => 0,
        };
        if !succeeded {
            self.counters.count_error();
            return answer(queue, chain, Status::IoError, 0);
        }
        match *request {
            Request::Read { bytes, .. } => self.counters.count_read(bytes),
            Request::Write { bytes, .. } => self.counters.count_write(bytes),
            Request::Flush => self.counters.count_flush(),
            Request::Erase { .. } => self.counters.count_erase(),
            Request::SerialNumber { .. } => {}
        }
        answer(queue, chain, Status::Ok, filled)
    }
}

/// What `chain` takes of a turn's bytes.
fn cost(chain: &Chain) -> u64 {
    chain.readable_len() + chain.writable_len() + chain.buffers() as u64 * BUFFER_COST
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

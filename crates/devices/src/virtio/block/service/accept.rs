//! Taking requests from queues: which queue's turn it is, what a turn may take, and each request's start.

use std::time::Instant;

use super::{Ended, Service, WriteMode, answer};
use crate::memory::GuestMemory;
use crate::virtio::block::engine::{Extent, Transfer, TransferKind};
use crate::virtio::block::kept::Attempt;
use crate::virtio::block::lanes::Lanes;
use crate::virtio::block::request::{HEADER_BYTES, Rejection, Request, Status, read_extents};
use crate::virtio::block::slots::InFlight;
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::vectors::VectorsError;

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
    /// When the turn began.
    at: Instant,
}

impl Origin {
    /// The end of a request that is over in the turn in which it was taken.
    fn ended(self, succeeded: bool) -> Ended {
        Ended { succeeded, at: self.at }
    }
}

/// Bytes of requests after which a turn ends: what is in the page cache is copied during the turn.
const TURN_BYTES: u64 = 32 << 20;
/// Bytes that every buffer counts for besides its own: a guest may cut a request into a thousand.
const BUFFER_COST: u64 = 4096;

impl Service {
    /// Starts requests of every queue that may have some; whether the rate limit was reached. No queue is served
    /// past it, so that small requests do not starve a large one, which is the first of the next turn.
    pub(super) fn accept_requests(&mut self, lanes: &mut Lanes, mode: WriteMode) -> Result<bool, QueueFault> {
        let mut bytes = TURN_BYTES;
        let mut now = None;
        for index in lanes.order() {
            let Some(lane) = lanes.get_mut(index).filter(|lane| lane.pending) else {
                continue;
            };
            let at = *now.get_or_insert_with(Instant::now);
            let stop = self.accept_from(&mut lane.queue, Origin { lane: index, mode, at }, &mut bytes)?;
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
        let (lane, taken_at) = (origin.lane, origin.at);
        let in_flight = InFlight { lane, chain, request, span, attempt: Attempt::First, taken_at };
        match request {
            Request::SerialNumber { bytes } => {
                // The range was cut to the chain's.
                let told = in_flight.chain.write_at(queue.memory(), 0, &self.serial.bytes()[..bytes]);
                self.complete(queue, &in_flight, origin.ended(told.is_ok()))
            }
            Request::Read { bytes: 0, .. } | Request::Write { bytes: 0, .. } => {
                self.complete(queue, &in_flight, origin.ended(true))
            }
            Request::Read { .. } | Request::Write { .. } | Request::Flush => {
                self.start_vectors(queue, in_flight, origin)
            }
            Request::Erase { .. } if extents.is_empty() => {
                self.complete(queue, &in_flight, origin.ended(true))
            }
            Request::Erase { .. } => self.start_erase(queue, in_flight, origin, extents),
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
        origin: Origin,
        extents: Vec<Extent>,
    ) -> Result<(), QueueFault> {
        let Some((slot, vectors)) = self.slots.take() else {
            return self.complete(queue, &in_flight, origin.ended(false));
        };
        let durability = origin.mode.durability();
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
        origin: Origin,
    ) -> Result<(), QueueFault> {
        let Some((slot, mut vectors)) = self.slots.take() else {
            return self.complete(queue, &in_flight, origin.ended(false));
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
            return self.complete(queue, &in_flight, origin.ended(false));
        };
        let transfer = Transfer::of_vectors(kind, offset, vectors);
        self.start(queue, slot, in_flight, Transfer { durability: origin.mode.durability(), ..transfer })
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
            let ended = Ended { succeeded: false, at: in_flight.taken_at };
            return self.complete(queue, &in_flight, ended);
        }
        self.slots.occupy(slot, in_flight);
        Ok(())
    }
}

/// What `chain` takes of a turn's bytes.
fn cost(chain: &Chain) -> u64 {
    chain.readable_len() + chain.writable_len() + chain.buffers() as u64 * BUFFER_COST
}

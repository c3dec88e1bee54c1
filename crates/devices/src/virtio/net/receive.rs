//! From the TAP to the guest (virtio 1.2 §5.1.6.3, §5.1.6.4).
//!
//! Buffers are taken from the queue before a frame is read, enough of them for any frame, and held until it came.
//! A frame that needs several buffers (only with `MRG_RXBUF`) is completed in one go. Without buffers the TAP is
//! left alone until the driver's doorbell: the frames wait in the TAP's own queue, which drops when it is full.
//!
//! What is held is always the last that was taken, without a gap, so that it can be given back to the queue on a pause. A
//! useless buffer between held ones is therefore held along with them, and completed once it is the first.

use std::collections::VecDeque;

use super::counters::NetCounters;
use super::frames::{Received, receive};
use super::offloads::Offloads;
use super::{ETHERNET_HEADER_BYTES, HEADER_BYTES, SEGMENTED_BYTES_MAX, TurnContext};
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::vectors::{IoVectors, VectorsError, mark_written};
use crate::virtio::work_left::WorkLeft;

/// Buffers taken a turn, useless ones included: more than that many frames need, but not endlessly many. A chain may be
/// made of a thousand.
const TURN_BUFFERS: u32 = 8192;
/// Where the header says how many buffers the frame is in.
const BUFFER_COUNT_OFFSET: u64 = 10;

/// How frames lie in the guest's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffers {
    /// Each frame in one buffer, however large that is.
    Whole,
    /// Frames run over into further buffers; this many bytes take any frame.
    Mergeable { frame_max: u64 },
}

impl Buffers {
    /// Mergeable buffers on a link of `mtu`, where the guest accepts `offloads`.
    pub(super) fn mergeable(offloads: Offloads, mtu: u16) -> Self {
        let frame_max = if offloads.segmented_frames() {
            SEGMENTED_BYTES_MAX
        } else {
            HEADER_BYTES + ETHERNET_HEADER_BYTES + u64::from(mtu)
        };
        Self::Mergeable { frame_max }
    }
}

/// The receiving half while the device is active.
pub(super) struct Receiver {
    buffers: Buffers,
    /// Taken from the queue, in order, and not completed yet; the first one is of use.
    held: VecDeque<Held>,
    /// The writable parts of those of `held` that are of use, in the same order.
    vectors: IoVectors,
    /// Completions of one frame; kept for its allocation.
    completions: Vec<(u16, u32)>,
    /// Buffers that may yet be taken this turn; the last chain may pass it.
    budget: u32,
    /// There were too few buffers, and doorbells are on.
    starved: bool,
}

/// A buffer in hand.
enum Held {
    /// Its room is among the vectors.
    Room(Chain),
    /// It cannot take a header, or lies outside of memory.
    Useless { head: u16 },
}

/// Whether the held buffers take any frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gathered {
    Enough,
    QueueEmpty,
    TurnOver,
}

impl Receiver {
    pub(super) fn new(buffers: Buffers) -> Self {
        Self {
            buffers,
            held: VecDeque::new(),
            vectors: IoVectors::default(),
            completions: Vec::new(),
            budget: 0,
            starved: true,
        }
    }

    /// The driver added buffers: worth a turn?
    pub(super) fn on_doorbell(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// Whether reading waits for a doorbell.
    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Gives the held buffers back to the queue as if they had never been taken, and waits for a doorbell.
    pub(super) fn release(&mut self, queue: &mut Queue) {
        queue.rewind(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        self.held.clear();
        self.vectors.clear();
        self.starved = true;
    }

    /// Moves frames until there are none, no buffers for them, the rate limit is reached, or they are too many for one
    /// turn.
    pub(super) fn turn(
        &mut self,
        queue: &mut Queue,
        context: &mut TurnContext<'_>,
    ) -> Result<WorkLeft, QueueFault> {
        self.budget = TURN_BUFFERS;
        queue.suppress_doorbells();
        let turn = self.frames(queue, context)?;
        queue.notify()?;
        Ok(turn)
    }

    fn frames(&mut self, queue: &mut Queue, context: &mut TurnContext<'_>) -> Result<WorkLeft, QueueFault> {
        for _frame in 0..context.share {
            loop {
                match self.gather(queue, context.counters)? {
                    Gathered::Enough => break,
                    Gathered::TurnOver => return Ok(WorkLeft::Maybe),
                    Gathered::QueueEmpty if queue.enable_doorbells()? => {}
                    Gathered::QueueEmpty => {
                        self.starved = true;
                        return Ok(WorkLeft::Nothing);
                    }
                }
            }
            if !context.limit.lets_pass(1) {
                return Ok(WorkLeft::Nothing);
            }
            match receive(context.port, &mut self.vectors) {
                Ok(Received::Frame(bytes)) if bytes >= HEADER_BYTES => {
                    context.limit.count(bytes - HEADER_BYTES);
                    self.deliver(queue, bytes, context.counters)?
                }
                // The buffers are used again for the next one.
                Ok(Received::Frame(_) | Received::TooLong) => {
                    context.limit.count(0);
                    context.counters.count_receive_dropped();
                }
                // No frame; or the interface is gone, and an event comes if it ever returns.
                Err(_none) => return Ok(WorkLeft::Nothing),
            }
        }
        Ok(WorkLeft::Maybe)
    }

    /// Takes buffers until they are enough for any frame.
    fn gather(&mut self, queue: &mut Queue, counters: &NetCounters) -> Result<Gathered, QueueFault> {
        while !self.is_enough() {
            if self.budget == 0 {
                return Ok(Gathered::TurnOver);
            }
            let Some(chain) = queue.pop()? else {
                // Nothing more can come while all descriptors are here.
                let all = !self.held.is_empty() && queue.outstanding() >= queue.size();
                return Ok(if all { Gathered::Enough } else { Gathered::QueueEmpty });
            };
            // A chain has at most 2^15 buffers.
            self.budget = self.budget.saturating_sub(u32::try_from(chain.buffers()).unwrap_or(u32::MAX));
            let appended = if chain.writable_len() < HEADER_BYTES {
                None
            } else {
                let room = chain.writable_len();
                Some(self.vectors.append(queue.memory(), chain.writable(), 0, room))
            };
            match appended {
                Some(Ok(())) => self.held.push_back(Held::Room(chain)),
                Some(Err(VectorsError::TooMany)) if !self.held.is_empty() => {
                    queue.rewind(1);
                    return Ok(Gathered::Enough);
                }
                None | Some(Err(_)) => {
                    self.held.push_back(Held::Useless { head: chain.head() });
                    self.complete_useless(queue, counters)?;
                }
            }
        }
        Ok(Gathered::Enough)
    }

    /// Completes useless buffers, empty, as long as nothing is held before them.
    fn complete_useless(&mut self, queue: &mut Queue, counters: &NetCounters) -> Result<(), QueueFault> {
        while let Some(Held::Useless { head }) = self.held.front() {
            counters.count_receive_dropped();
            queue.complete(*head, 0)?;
            self.held.pop_front();
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        match self.buffers {
            Buffers::Whole => !self.held.is_empty(),
            Buffers::Mergeable { frame_max } => self.vectors.bytes() >= frame_max,
        }
    }

    /// Completes the buffers that a frame of `bytes`, its header included, was read into.
    fn deliver(&mut self, queue: &mut Queue, bytes: u64, counters: &NetCounters) -> Result<(), QueueFault> {
        self.completions.clear();
        let (mut rest, mut room) = (bytes, 0);
        for held in &self.held {
            let Held::Room(chain) = held else { continue };
            if rest == 0 {
                break;
            }
            let filled = rest.min(chain.writable_len());
            mark_written(queue.memory(), chain.writable(), filled);
            // Parts of a 32-bit length.
            let written = u32::try_from(filled).unwrap_or(u32::MAX);
            self.completions.push((chain.head(), written));
            room += chain.writable_len();
            rest -= filled;
        }
        if let Some(Held::Room(first)) = self.held.front() {
            let count = u16::try_from(self.completions.len()).unwrap_or(u16::MAX);
            // Each held chain has room for the whole header and lies in memory.
            let _written = first.write_at(queue.memory(), BUFFER_COUNT_OFFSET, &count.to_le_bytes());
        }
        self.vectors.advance(room);
        counters.count_received(bytes - HEADER_BYTES);
        queue.complete_together(&self.completions)?;
        // The filled ones go, and useless ones before, between and right after them.
        for _filled in 0..self.completions.len() {
            self.held.pop_front();
            self.complete_useless(queue, counters)?;
        }
        Ok(())
    }
}

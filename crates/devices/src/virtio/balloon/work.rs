//! Serving the queues that name pages, a bounded amount a turn: a chain whose pages are not all done stays in hand
//! until the next turn.

use vm_memory::{Address, GuestAddress};

use super::discard::discard;
use super::handle::{BalloonHandle, PAGE_BYTES};
use crate::memory::GuestMemory;
use crate::virtio::queue::{Chain, Queue, QueueFault, Segment};
use crate::virtio::work_left::WorkLeft;

/// Page numbers looked at together: as many as Linux sends at a time.
const BATCH: usize = 256;
/// Bytes of a page number.
const NUMBER_BYTES: usize = 4;
/// Chains after which a turn ends.
const TURN_CHAINS: u32 = 64;
/// Ranges of memory after which a turn ends, however small.
const TURN_RANGES: u32 = 2048;
/// Discarded memory after which a turn ends.
const TURN_BYTES: u64 = 128 << 20;
/// The most memory discarded by one system call.
const RANGE_BYTES_MAX: u64 = 16 << 20;

/// A queue and the chain of it that is being worked on.
pub(super) struct PageQueue {
    queue: Queue,
    in_hand: Option<InHand>,
}

struct InHand {
    chain: Chain,
    /// Bytes of the chain that are to be done.
    length: u64,
    /// Bytes of the chain that are done.
    done: u64,
}

/// What remains of a turn.
struct Budget {
    chains: u32,
    ranges: u32,
    bytes: u64,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.chains == 0 || self.ranges == 0 || self.bytes == 0
    }

    fn spend_range(&mut self, bytes: u64) {
        self.ranges = self.ranges.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl PageQueue {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, in_hand: None }
    }

    /// Discards the pages whose numbers the driver sends.
    pub(super) fn inflate(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        let step = |memory: &GuestMemory, hand: &mut InHand, budget: &mut Budget| {
            discard_batch(memory, hand, budget, handle);
        };
        self.serve(Chain::readable_len, step)
    }

    /// Gives chains back unread: taking a page back needs nothing.
    pub(super) fn deflate(&mut self) -> Result<WorkLeft, QueueFault> {
        self.serve(|_chain| 0, |_memory, hand, _budget| hand.done = hand.length)
    }

    /// Discards the pages that chains consist of.
    pub(super) fn report(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        let step = |memory: &GuestMemory, hand: &mut InHand, budget: &mut Budget| {
            discard_reported(memory, hand, budget, handle);
        };
        self.serve(Chain::writable_len, step)
    }

    /// Takes chains, of which `length` bytes are to be done, and has `step` advance them until nothing is left of them
    /// or of the turn.
    fn serve(
        &mut self,
        length: impl Fn(&Chain) -> u64,
        step: impl Fn(&GuestMemory, &mut InHand, &mut Budget),
    ) -> Result<WorkLeft, QueueFault> {
        let memory = self.queue.memory().clone();
        let mut budget = Budget { chains: TURN_CHAINS, ranges: TURN_RANGES, bytes: TURN_BYTES };
        let turn = loop {
            self.queue.suppress_doorbells();
            while !budget.is_spent()
                && let Some(mut hand) = self.next(&length)?
            {
                while hand.done < hand.length && !budget.is_spent() {
                    step(&memory, &mut hand, &mut budget);
                }
                if hand.done < hand.length {
                    self.in_hand = Some(hand);
                } else {
                    self.queue.complete(hand.chain.head(), 0)?;
                    budget.chains -= 1;
                }
            }
            if budget.is_spent() {
                break WorkLeft::Maybe;
            }
            if !self.queue.enable_doorbells()? {
                break WorkLeft::Nothing;
            }
        };
        self.queue.notify()?;
        Ok(turn)
    }

    fn next(&mut self, length: impl Fn(&Chain) -> u64) -> Result<Option<InHand>, QueueFault> {
        if let Some(hand) = self.in_hand.take() {
            return Ok(Some(hand));
        }
        let chain = self.queue.pop()?;
        Ok(chain.map(|chain| InHand { length: length(&chain), chain, done: 0 }))
    }
}

/// Discards the pages of the next numbers of the chain, neighbours together.
fn discard_batch(memory: &GuestMemory, hand: &mut InHand, budget: &mut Budget, handle: &BalloonHandle) {
    let mut bytes = [0; BATCH * NUMBER_BYTES];
    let left = usize::try_from(hand.length - hand.done).unwrap_or(bytes.len()).min(bytes.len());
    let piece = &mut bytes[..left];
    if hand.chain.read_at(memory, hand.done, piece).is_err() {
        // The chain was checked when it was taken: there is nothing more to be had from it.
        hand.done = hand.length;
        return;
    }
    hand.done += left as u64;
    let mut numbers = [0_u32; BATCH];
    // A cut-off number at the chain's end is none.
    let count = left / NUMBER_BYTES;
    for (number, bytes) in numbers.iter_mut().zip(piece.chunks_exact(NUMBER_BYTES)) {
        *number = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    let numbers = &mut numbers[..count];
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| next.wrapping_sub(*one) <= 1) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let length = (u64::from(last - first) + 1) * PAGE_BYTES;
        discard_range(memory, u64::from(*first) * PAGE_BYTES, length, handle);
        budget.spend_range(length);
    }
}

/// Discards the whole pages among the next bytes of the chain's writable part.
fn discard_reported(memory: &GuestMemory, hand: &mut InHand, budget: &mut Budget, handle: &BalloonHandle) {
    let Some(rest) = rest_of_segment(hand.chain.writable(), hand.done) else {
        hand.done = hand.length;
        return;
    };
    let (start, length) = (rest.address.raw_value(), u64::from(rest.length).min(RANGE_BYTES_MAX));
    hand.done += length;
    let end = (start + length) / PAGE_BYTES * PAGE_BYTES;
    let start = start.next_multiple_of(PAGE_BYTES);
    if start < end {
        discard_range(memory, start, end - start, handle);
    }
    budget.spend_range(length);
}

/// What remains of the segment that byte `offset` of all of them is in.
fn rest_of_segment(segments: &[Segment], offset: u64) -> Option<Segment> {
    let mut skip = offset;
    for segment in segments {
        match u32::try_from(skip) {
            Ok(cut) if cut < segment.length => {
                let address = segment.address.checked_add(skip)?;
                return Some(Segment { address, length: segment.length - cut });
            }
            _ => skip -= u64::from(segment.length),
        }
    }
    None
}

fn discard_range(memory: &GuestMemory, start: u64, length: u64, handle: &BalloonHandle) {
    if discard(memory, GuestAddress(start), length).is_ok() {
        return handle.count_discarded(length);
    }
    if length == PAGE_BYTES {
        return handle.count_refused(1);
    }
    // The good pages of a range that is not wholly in one region are still given up.
    for page in 0..length / PAGE_BYTES {
        discard_range(memory, start + page * PAGE_BYTES, PAGE_BYTES, handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_segment_is_found_from_any_byte() {
        let segment = |address, length| Segment { address: GuestAddress(address), length };
        let segments = [segment(0x1000, 0x800), segment(0x9000, 0x1000)];
        assert_eq!(rest_of_segment(&segments, 0), Some(segment(0x1000, 0x800)));
        assert_eq!(rest_of_segment(&segments, 0x7ff), Some(segment(0x17ff, 1)));
        assert_eq!(rest_of_segment(&segments, 0x800), Some(segment(0x9000, 0x1000)));
        assert_eq!(rest_of_segment(&segments, 0x17ff), Some(segment(0x9fff, 1)));
        assert_eq!(rest_of_segment(&segments, 0x1800), None);
    }
}

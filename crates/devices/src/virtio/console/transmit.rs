//! Passes the guest's output to the sink (virtio 1.2 §5.3.6), a bounded amount each turn. A chain that is not passed on
//! whole is kept until the next turn.

use crate::serial::ConsoleSink;
use crate::virtio::queue::{Chain, Queue, QueueFault};

/// Bytes passed on at a time.
const PIECE_BYTES: usize = 4096;
/// Bytes after which a turn ends.
const TURN_BYTES: u64 = 64 << 10;
/// Chains after which a turn ends, however short.
const TURN_CHAINS: u32 = 64;

/// The transmit queue and the chain of it that is being passed on.
pub(super) struct Transmit {
    queue: Queue,
    in_hand: Option<InHand>,
}

struct InHand {
    chain: Chain,
    /// Bytes of it that the sink has.
    done: u64,
}

impl Transmit {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, in_hand: None }
    }

    /// Passes output on until there is no more, or too much for one turn: then returns `true`.
    pub(super) fn serve(&mut self, sink: &mut dyn ConsoleSink) -> Result<bool, QueueFault> {
        let (mut chains, mut bytes) = (0, 0);
        let more = loop {
            self.queue.suppress_doorbells();
            while chains < TURN_CHAINS
                && bytes < TURN_BYTES
                && let Some(mut hand) = self.next()?
            {
                bytes += pass_on(&self.queue, &mut hand, TURN_BYTES - bytes, sink);
                if hand.done < hand.chain.readable_len() {
                    self.in_hand = Some(hand);
                } else {
                    self.queue.complete(hand.chain.head(), 0)?;
                    chains += 1;
                }
            }
            if chains >= TURN_CHAINS || bytes >= TURN_BYTES {
                break true;
            }
            if !self.queue.enable_doorbells()? {
                break false;
            }
        };
        self.queue.notify()?;
        Ok(more)
    }

    fn next(&mut self) -> Result<Option<InHand>, QueueFault> {
        if let Some(hand) = self.in_hand.take() {
            return Ok(Some(hand));
        }
        Ok(self.queue.pop()?.map(|chain| InHand { chain, done: 0 }))
    }
}

/// Passes on at most `budget` bytes of what is left of a chain: how many.
fn pass_on(queue: &Queue, hand: &mut InHand, budget: u64, sink: &mut dyn ConsoleSink) -> u64 {
    let end = hand.chain.readable_len().min(hand.done.saturating_add(budget));
    let before = hand.done;
    let mut piece = [0; PIECE_BYTES];
    while hand.done < end {
        let length = usize::try_from(end - hand.done).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        let piece = &mut piece[..length];
        if hand.chain.read_at(queue.memory(), hand.done, piece).is_err() {
            // The chain was checked when it was taken: there is nothing more to be had from it.
            hand.done = hand.chain.readable_len();
            break;
        }
        sink.write(piece);
        hand.done += length as u64;
    }
    (hand.done - before).min(budget)
}

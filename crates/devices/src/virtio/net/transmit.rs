//! From the guest to the TAP (virtio 1.2 §5.1.6.2).

use rustix::io::Errno;

use vm_model::LinkState;

use super::frames::transmit;
use super::{ETHERNET_HEADER_BYTES, HEADER_BYTES, SEGMENTED_BYTES_MAX, TurnContext};
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::vectors::IoVectors;
use crate::virtio::work_left::WorkLeft;

/// The shortest frame with its header that a TAP looks at.
const FRAME_BYTES_MIN: u64 = HEADER_BYTES + ETHERNET_HEADER_BYTES;
/// The longest, with a VLAN tag.
const FRAME_BYTES_MAX: u64 = SEGMENTED_BYTES_MAX + 4;

/// The sending half while the device is active.
#[derive(Default)]
pub(super) struct Transmitter {
    vectors: IoVectors,
    /// The port had no room; its writability is being watched.
    blocked: bool,
}

/// What became of a frame.
enum Sent {
    Done,
    NoRoom,
    /// The rate limit leaves it for later.
    Limited,
}

impl Transmitter {
    /// Whether sending waits for the port.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The port has room again.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Moves frames until there are none, no room for them, the rate limit is reached, or they are too many for one turn.
    pub(super) fn turn(
        &mut self,
        queue: &mut Queue,
        context: &mut TurnContext<'_>,
    ) -> Result<WorkLeft, QueueFault> {
        let mut budget = context.share;
        let turn = loop {
            queue.suppress_doorbells();
            while budget > 0
                && let Some(chain) = queue.pop()?
            {
                budget -= 1;
                match self.send(queue, &chain, context) {
                    Sent::Done => queue.complete(chain.head(), 0)?,
                    held @ (Sent::NoRoom | Sent::Limited) => {
                        queue.rewind(1);
                        self.blocked = matches!(held, Sent::NoRoom);
                        queue.notify()?;
                        return Ok(WorkLeft::Nothing);
                    }
                }
            }
            if budget == 0 {
                break WorkLeft::Maybe;
            }
            if !queue.enable_doorbells()? {
                break WorkLeft::Nothing;
            }
        };
        queue.notify()?;
        Ok(turn)
    }

    fn send(&mut self, queue: &Queue, chain: &Chain, context: &mut TurnContext<'_>) -> Sent {
        let bytes = chain.readable_len();
        let whole = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&bytes);
        if context.link == LinkState::Down {
            context.counters.count_transmit_dropped();
            return Sent::Done;
        }
        if whole && !context.limit.lets_pass(bytes - HEADER_BYTES) {
            return Sent::Limited;
        }
        let prepared = whole && self.vectors.append(queue.memory(), chain.readable(), 0, bytes).is_ok();
        let sent = if prepared { transmit(context.port, &self.vectors) } else { Err(Errno::INVAL) };
        self.vectors.clear();
        match sent {
            Ok(()) => {
                context.limit.count(bytes - HEADER_BYTES);
                context.counters.count_transmitted(bytes - HEADER_BYTES);
            }
            Err(Errno::AGAIN) => return Sent::NoRoom,
            Err(_refused) => context.counters.count_transmit_dropped(),
        }
        Sent::Done
    }
}

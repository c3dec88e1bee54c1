//! Copies typed bytes into the guest's receive buffers (virtio 1.2 §5.3.6).

use super::handle::ConsoleHandle;
use crate::virtio::queue::{Queue, QueueFault};

/// Bytes moved at a time.
const PIECE_BYTES: usize = 512;
/// Buffers after which a turn ends, whatever their size.
const TURN_CHAINS: u32 = 64;

/// Copies input until there is no more, no buffer, or too much for one turn: then returns `true`.
///
/// The input that a turn can move is bounded by what waits; a buffer that takes none goes back empty and is counted.
pub(super) fn receive(queue: &mut Queue, handle: &ConsoleHandle) -> Result<bool, QueueFault> {
    let mut chains = 0;
    let more = loop {
        queue.suppress_doorbells();
        while chains < TURN_CHAINS
            && handle.has_input()
            && let Some(chain) = queue.pop()?
        {
            let mut written = 0;
            let mut piece = [0; PIECE_BYTES];
            while written < chain.writable_len() {
                let room = usize::try_from(chain.writable_len() - written).unwrap_or(PIECE_BYTES);
                let count = handle.peek(&mut piece[..room.min(PIECE_BYTES)]);
                if count == 0 || chain.write_at(queue.memory(), written, &piece[..count]).is_err() {
                    break;
                }
                handle.consume(count);
                written += count as u64;
            }
            queue.complete(chain.head(), u32::try_from(written).unwrap_or(u32::MAX))?;
            chains += 1;
        }
        if chains >= TURN_CHAINS {
            break handle.has_input();
        }
        // Without input the driver's new buffers are of no interest: the next input looks for them.
        if !handle.has_input() || !queue.enable_doorbells()? {
            break false;
        }
    };
    queue.notify()?;
    Ok(more)
}

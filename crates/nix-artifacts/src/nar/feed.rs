//! Handing the content of a file on while it is hashed, so that hash and copy need one read.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pieces that may wait in the channel of a [`Feed`]; make it with this bound.
pub const FEED_DEPTH: usize = 8;
/// Bytes of one piece: large enough that system calls do not count beside the hashing.
pub(super) const PIECE_SIZE: usize = 256 << 10;

/// A receiver that takes nothing for longer is given up.
const LONGEST_STALL: Duration = Duration::from_secs(2);
/// How often a full channel is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// One file of a store path whose content is wanted while it is hashed.
///
/// The pieces come in order and without gaps, then [`Piece::End`]. A receiver that does not get that far has not got the
/// file, and nothing that it got counts before the hash was found right.
pub struct Feed {
    /// The file, relative to the store path.
    pub path: PathBuf,
    /// Takes the pieces. A receiver that is dropped does not end the hashing.
    pub pieces: SyncSender<Piece>,
    /// Whether somebody else waits for the hash: then a receiver that is slower than the hashing is given up at once, so
    /// that one machine's disk does not hold up another machine.
    pub is_urgent: Box<dyn Fn() -> bool + Send>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Feed").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A part of a file's content.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes of the file.
    Data {
        /// Where they begin.
        offset: u64,
        /// The bytes.
        bytes: SharedBytes,
    },
    /// Zeros that the file system keeps no blocks for.
    Hole {
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The file has been handed on whole.
    End {
        /// Its size.
        size: u64,
    },
}

/// Bytes that are hashed and copied at the same time.
#[derive(Clone)]
pub struct SharedBytes {
    buffer: Arc<Vec<u8>>,
    length: usize,
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.length)
    }
}

impl Feed {
    /// Hands `piece` on; false where the receiver is gone or given up.
    pub(super) fn send(&self, piece: Piece) -> bool {
        let mut unsent = piece;
        let begun = Instant::now();
        loop {
            unsent = match self.pieces.try_send(unsent) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(piece)) => piece,
            };
            if (self.is_urgent)() || begun.elapsed() > LONGEST_STALL {
                return false;
            }
            sleep(RETRY);
        }
    }
}

/// Buffers that are used again when nobody reads them any more.
#[derive(Default)]
pub(super) struct Buffers {
    buffers: Vec<Arc<Vec<u8>>>,
}

impl Buffers {
    /// Fills a buffer by `read`, which answers how many bytes it put at the buffer's beginning.
    pub(super) fn fill<Error>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<SharedBytes, Error> {
        let mut free = match self.buffers.iter().position(|buffer| Arc::strong_count(buffer) == 1) {
            Some(position) => self.buffers.swap_remove(position),
            None => Arc::new(vec![0; PIECE_SIZE]),
        };
        // The only handle to it, so nothing is copied.
        let buffer: &mut Vec<u8> = Arc::make_mut(&mut free);
        let read = read(buffer);
        self.buffers.push(Arc::clone(&free));
        read.map(|length| SharedBytes { length: length.min(free.len()), buffer: free })
    }
}

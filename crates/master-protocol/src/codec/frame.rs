//! Frames in a stream of bytes: four bytes of length, most significant first, then that many bytes.

use thiserror::Error;

use crate::wire::v1::FRAME_MOST_BYTES;

/// The length that goes before each frame.
pub const HEADER_BYTES: usize = 4;

/// From here on, an empty buffer is given back.
const KEPT_CAPACITY: usize = 256 << 10;

/// A length that no frame has. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The frame has nothing in it.
    #[error("a frame of 0 bytes; accepted are 1 to {FRAME_MOST_BYTES}")]
    Empty,
    /// The frame is longer than the protocol allows.
    #[error("a frame of {length} bytes; accepted are 1 to {FRAME_MOST_BYTES}")]
    TooLong {
        /// The length it announced.
        length: u32,
    },
}

/// Takes bytes as they arrive and gives whole frames.
///
/// It holds no more than what arrived and was not taken: the announced length makes it allocate nothing. Each byte is
/// moved a bounded number of times, also where bytes come one by one.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the buffer's beginning that were taken.
    taken: usize,
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived. Take all frames before adding more, so that the buffer does not grow beyond a frame.
    pub fn feed(&mut self, bytes: &[u8]) {
        // What is left is shorter than what was taken: moving it costs less than receiving it did.
        if self.taken > 0 && self.taken >= self.buffer.len() / 2 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length; `None` until more bytes arrive.
    ///
    /// # Errors
    /// The next length is none that a frame has; every later call says the same.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let Some((header, rest)) = self.buffer[self.taken..].split_first_chunk::<HEADER_BYTES>() else {
            self.give_back();
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header);
        let bytes = match usize::try_from(length) {
            Ok(0) => return Err(FrameError::Empty),
            Ok(bytes) if bytes <= FRAME_MOST_BYTES => bytes,
            Ok(_) | Err(_) => return Err(FrameError::TooLong { length }),
        };
        if rest.len() < bytes {
            return Ok(None);
        }
        let start = self.taken + HEADER_BYTES;
        self.taken = start + bytes;
        Ok(self.buffer.get(start..start + bytes))
    }

    /// Whether the stream may end here: between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.taken == self.buffer.len()
    }

    /// Bytes of memory that the buffer takes.
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    fn give_back(&mut self) {
        if self.is_between_frames() {
            self.buffer.clear();
            self.taken = 0;
            if self.buffer.capacity() > KEPT_CAPACITY {
                self.buffer = Vec::new();
            }
        }
    }
}

//! A console's input and size, to be set from any thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wake::WakeEvent;

/// The most input that waits for the guest to take it.
pub const CONSOLE_INPUT_BYTES: usize = 4096;
/// Free bytes from which on more input is asked for.
const ROOM_WORTH_TELLING: usize = CONSOLE_INPUT_BYTES / 2;

/// A console's size in characters; zero where it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for ConsoleSize {
    /// That of the terminals that others are modelled on.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// One console's input and size.
#[derive(Debug)]
pub struct ConsoleHandle {
    /// Columns in the low half, rows in the high one.
    size: AtomicU32,
    /// A leaf lock, held for a copy.
    input: Mutex<Input>,
    /// Rung when there is input.
    typed: WakeEvent,
    /// Rung when there is room for more.
    room: WakeEvent,
}

#[derive(Debug, Default)]
struct Input {
    /// Never longer than [`CONSOLE_INPUT_BYTES`].
    waiting: VecDeque<u8>,
    /// Input was cut short; ring `room` when there is some.
    starved: bool,
}

impl ConsoleHandle {
    pub(super) fn new(size: ConsoleSize) -> io::Result<Self> {
        let handle = Self {
            size: AtomicU32::new(0),
            input: Mutex::default(),
            typed: WakeEvent::new()?,
            room: WakeEvent::new()?,
        };
        handle.set_size(size);
        Ok(handle)
    }

    /// Queues `bytes` as input for the guest and returns the number taken, from the first on. After fewer than all,
    /// [`ConsoleHandle::room_event`] becomes readable when it is worth trying again. What is typed before the guest has
    /// a driver waits for it.
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let mut input = self.lock();
        let taken = bytes.len().min(CONSOLE_INPUT_BYTES.saturating_sub(input.waiting.len()));
        input.waiting.extend(bytes.iter().take(taken));
        input.starved = taken < bytes.len();
        drop(input);
        if taken > 0 {
            self.typed.ring();
        }
        taken
    }

    /// Readable (an eventfd, to be watched edge-triggered) when [`ConsoleHandle::enqueue`] took less than it was given
    /// and there is room again.
    #[must_use]
    pub fn room_event(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Changes the size. The guest sees it when the transport notifies it of a change of configuration.
    pub fn set_size(&self, size: ConsoleSize) {
        self.size.store(u32::from(size.rows) << 16 | u32::from(size.columns), Ordering::SeqCst);
    }

    /// The size now.
    #[must_use]
    pub fn size(&self) -> ConsoleSize {
        let [low, high, upper_low, upper_high] = self.size.load(Ordering::SeqCst).to_le_bytes();
        ConsoleSize {
            columns: u16::from_le_bytes([low, high]),
            rows: u16::from_le_bytes([upper_low, upper_high]),
        }
    }

    /// Readable when there is input.
    pub(super) fn typed_event(&self) -> BorrowedFd<'_> {
        self.typed.as_fd()
    }

    /// Whether any input waits.
    pub(super) fn has_input(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Copies the first input into `buffer`, as much as there is, and leaves it waiting.
    pub(super) fn peek(&self, buffer: &mut [u8]) -> usize {
        let input = self.lock();
        let count = buffer.len().min(input.waiting.len());
        for (place, byte) in buffer.iter_mut().zip(&input.waiting) {
            *place = *byte;
        }
        count
    }

    /// Removes the first `count` bytes of input, which the guest has.
    pub(super) fn consume(&self, count: usize) {
        let mut input = self.lock();
        let count = count.min(input.waiting.len());
        input.waiting.drain(..count);
        if input.starved && CONSOLE_INPUT_BYTES - input.waiting.len() >= ROOM_WORTH_TELLING {
            input.starved = false;
            drop(input);
            self.room.ring();
        }
    }

    #[cfg(test)]
    pub(super) fn take_room_event(&self) -> bool {
        self.room.take()
    }

    fn lock(&self) -> MutexGuard<'_, Input> {
        // Nothing panics while it is held.
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

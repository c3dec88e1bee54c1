//! The console (virtio 1.2 §5.3) with one port: what the guest transmits goes to a [`ConsoleSink`], what is typed goes
//! into the buffers it gave to receive, and its size follows the terminal behind it.
//!
//! ```text
//! guest ──transmit queue──→ ConsoleDevice ──ConsoleSink──→ console recorder
//! guest ←──receive queue───       ↑ └────room_event─────→ event loop
//! event loop ──ConsoleHandle::enqueue─┘
//! ```
//!
//! Input is bounded: what neither the guest's buffers nor a few kilobytes here hold is not taken. Output never waits:
//! a sink keeps or drops what it is given, and a turn passes on a bounded amount, so that a chain of gigabytes takes
//! many turns. Where input comes from, and what is kept of the output, is the caller's business.
//!
//! [`ConsoleSink`]: crate::serial::ConsoleSink

mod device;
mod handle;
mod receive;
mod transmit;

pub use device::{ConsoleDevice, ConsoleDeviceConfig};
pub use handle::{CONSOLE_INPUT_BYTES, ConsoleHandle, ConsoleSize};

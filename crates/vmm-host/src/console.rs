//! What guests write to their consoles: kept from the first byte, cut in the middle where it grows too long,
//! readable and followable while the machine runs and after it has ended.
//!
//! `log` is the pure store, `lines` makes text for people of it, `recorder` shares it between the thread that
//! writes and tasks that read. Nothing here knows what a serial port is.

mod lines;
mod log;
mod recorder;

pub use log::{ConsoleChunk, ConsoleLimits, ConsoleSnapshot};
pub use recorder::{ConsoleFollower, ConsoleRecorder, ConsoleWriter};

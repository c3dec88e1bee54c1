//! What guests write to their consoles: kept from the first byte, cut in the middle where it grows too long,
//! readable and followable while the machine runs and after it has ended.
//!
//! `log` is the pure store, `lines` makes text for people of it, `panic` finds a kernel's last words in that, `recorder`
//! shares the store between the thread that writes and tasks that read. Nothing here knows what a serial port is.

mod lines;
mod log;
mod panic;
mod recorder;

pub use log::{ConsoleChunk, ConsoleLimits, ConsoleSnapshot};
pub use panic::{KernelPanic, PANIC_LINES};
pub use recorder::{ConsoleFollower, ConsoleRecorder, ConsoleWriter};

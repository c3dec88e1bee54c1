//! What guests write to their consoles: kept from the first byte, cut in the middle where it grows too long,
//! readable and followable while the machine runs and after it has ended.
//!
//! `log` is the pure store, `lines` makes text for people of it, `panic` finds a kernel's last words in that, `recorder`
//! shares the store between the thread that writes and tasks that read. Nothing here knows what a serial port is, or
//! which machine writes.
//!
//! ```
//! use console_log::{ConsoleLimits, ConsoleRecorder};
//!
//! let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
//! writer.write(b"Booting\r\nlogin: ");
//! assert_eq!(recorder.tail_lines_since(0, 1), ["login:"]);
//! ```

#![forbid(unsafe_code)]

mod lines;
mod log;
mod panic;
mod recorder;
mod source;

pub use log::{ConsoleChunk, ConsoleLimits, ConsoleSnapshot};
pub use panic::{KernelPanic, PANIC_LINES};
pub use recorder::{ConsoleFollower, ConsoleRecorder, ConsoleWriter};
pub use source::ConsoleSource;

//! What guests write to their consoles: kept from the first byte, cut in the middle where it grows too long,
//! readable and followable while the machine runs and after it has ended.
//!
//! `log` is the pure store, `boots` tells whose bytes are in it, `lines` makes text for people of it, `panic` finds a
//! kernel's last words in that and `last_words` while they are written, `diagnosis` tells from such text why a boot went
//! wrong, and `trouble_watch` notices while it is written that a guest waits for a person. `recorder` shares the store
//! between the thread that writes and tasks that read. `files` keeps consoles in directories, where they outlive the
//! process, and `file_writer` is the thread that puts them there. Nothing here knows what a serial port is, or which machine
//! writes.
//!
//! ```
//! use console_log::{ConsoleLimits, ConsoleRecorder};
//!
//! let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
//! writer.write(b"Booting\r\nlogin: ");
//! assert_eq!(recorder.tail_lines_since(0, 1), ["login:"]);
//! ```

#![forbid(unsafe_code)]

mod boots;
mod diagnosis;
mod file_writer;
mod files;
mod last_words;
mod lines;
mod log;
mod panic;
mod recorder;
mod source;
mod trouble_watch;

pub use diagnosis::{Diagnosis, without_timestamp};
pub use file_writer::{ConsoleFileWriter, FileRegistration, FlushError};
pub use files::{
    BootSummary, ConsoleFiles, ConsoleFilesError, ConsolePiece, ConsolePosition, DirectoryWatch, FileAction,
    FileLimits, WatchNews,
};
pub use log::{ConsoleChunk, ConsoleLimits, ConsoleSnapshot};
pub use panic::{KernelPanic, PANIC_LINES};
pub use recorder::{Alarm, ConsoleFollower, ConsoleNews, ConsoleRecorder, ConsoleWriter};
pub use source::{ConsoleDirectory, ConsoleSource};

//! A console in the files of a directory: what each boot of a machine wrote, kept while it is written and readable by
//! any process at any time.
//!
//! ```text
//! 0006.000000000000.log   boot 6, its head: bytes 0 to 1 MiB
//! 0006.000009437184.log   later bytes of boot 6. A segment that begins after the end of
//! 0006.000009961472.log   the one before shows that bytes between them were dropped.
//! 0006.000010485760.log
//! 0007.000000000000.log   boot 7
//! ```
//!
//! A segment's file is named after its boot and its offset within the boot, and holds the bytes as the guest wrote
//! them, nothing else. Files are only appended to and are never renamed, so a process that is killed at any moment
//! leaves a readable console. Nothing is synced to the disk: a console survives its processes, not a crash of the host.
//!
//! `name` is the naming, `listing` finds what is there, `segments` writes and removes what is too old, `reader` reads,
//! `follow` reads on from one boot into the next, and `watch` tells when there is more to read.
//! The process that writes may be another than the one that reads, and is not trusted by it.

mod error;
mod follow;
mod listing;
mod name;
mod reader;
mod segments;
mod watch;

pub use error::{ConsoleFilesError, FileAction};
pub use follow::{ConsolePiece, ConsolePosition};
pub use reader::{BootSummary, ConsoleFiles};
pub use segments::FileLimits;
pub(crate) use segments::SegmentedConsole;
pub use watch::{DirectoryWatch, WatchNews};

#[cfg(test)]
mod tests;

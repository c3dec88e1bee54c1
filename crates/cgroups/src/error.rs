//! What a control group refuses.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why something was not done with a control group.
#[derive(Debug, Error)]
pub enum GroupError {
    /// It could not be made.
    #[error("cannot make the control group {}", path.display())]
    Make {
        /// Its directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A process could not be moved to it.
    #[error("cannot move process {pid} to the control group {}", path.display())]
    Join {
        /// The process.
        pid: u32,
        /// The group's directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A controller could not be handed to the groups below it.
    #[error("cannot enable the controller {controller} below the control group {}", path.display())]
    Enable {
        /// The controller.
        controller: &'static str,
        /// The group's directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A value was not taken.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What it did not take.
        value: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// It takes less memory than is in use and cannot be given back.
    #[error(
        "memory_max is {wanted} bytes, and {used} bytes are in use that the host cannot take back; accepted is at least as much"
    )]
    InUse {
        /// The limit that was asked for.
        wanted: u64,
        /// What is in use.
        used: u64,
    },
    /// It could not be removed.
    #[error("cannot remove the control group {}", path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

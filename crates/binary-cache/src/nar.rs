//! The archive of a store path, read as it comes and unpacked below an open directory.
//!
//! The format has one spelling for each tree (Dolstra, "The Purely Functional Software Deployment Model", §5.2.1), and only that
//! is accepted: names in strict order, padding of zeros, nothing after the end. Every length is checked before it is believed.

mod tokens;
mod tree;
mod unpack;

use std::io;

use thiserror::Error;

pub(crate) use unpack::unpack;

/// Why an archive cannot be unpacked.
#[derive(Debug, Error)]
pub enum NarFormatError {
    /// It is no archive of the one accepted form.
    #[error("at byte {offset}: {problem}")]
    Format {
        /// How many bytes had been read.
        offset: u64,
        /// What is wrong, and what is accepted.
        problem: &'static str,
    },
    /// No more of it comes, or it cannot be decompressed.
    #[error("after {offset} bytes it cannot be read")]
    Read {
        /// How many bytes had been read.
        offset: u64,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// A file of it cannot be made.
    #[error("cannot {operation} {path:?}")]
    Write {
        /// What was tried.
        operation: &'static str,
        /// The file, relative to the store path.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;

//! What a driver can do wrong with a queue while it runs.

use thiserror::Error;

/// A rule of virtio 1.2 §2.7 that the driver broke. The device stops serving its queues and asks to be reset
/// (§2.1.2).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QueueFault {
    /// More chains are announced than the queue has descriptors.
    #[error("available index {available} is more than the queue size {size} ahead of {next}")]
    AvailableIndex {
        /// What the driver wrote.
        available: u16,
        /// The next entry the device would take.
        next: u16,
        /// The queue's size.
        size: u16,
    },
    /// More chains are in the device's hands than the queue has descriptors.
    #[error("a chain was made available while all {size} descriptors were in flight")]
    TooManyOutstanding {
        /// The queue's size.
        size: u16,
    },
    /// A head, or the link of a descriptor, points past its table.
    #[error("descriptor index {index} is not below {limit}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Entries in the table.
        limit: u16,
    },
    /// A chain has more descriptors than the queue: it is a loop or breaks §2.7.5.3.1.
    #[error("chain {head} has more than {limit} descriptors")]
    ChainLength {
        /// The chain's head.
        head: u16,
        /// The queue's size.
        limit: u16,
    },
    /// An indirect table was used though the feature was not agreed on, from within another such table, or with
    /// a link after it (§2.7.5.3.1).
    #[error("chain {head} has an indirect table where none is allowed")]
    IndirectPlacement {
        /// The chain's head.
        head: u16,
    },
    /// An indirect table's length is zero, no multiple of a descriptor's, or too large (§2.7.5.3).
    #[error("chain {head} has an indirect table of {length} bytes, expected 16 to 524288 in steps of 16")]
    IndirectLength {
        /// The chain's head.
        head: u16,
        /// The length in bytes.
        length: u32,
    },
    /// A descriptor describes no byte.
    #[error("chain {head} has a buffer of length zero at {address:#x}")]
    EmptyBuffer {
        /// The chain's head.
        head: u16,
        /// The buffer's address.
        address: u64,
    },
    /// A buffer or table is not wholly in guest memory.
    #[error("chain {head} refers to {length} bytes at {address:#x}, which are not wholly in guest memory")]
    OutsideMemory {
        /// The chain's head.
        head: u16,
        /// Where the bytes are said to be.
        address: u64,
        /// The number of bytes.
        length: u32,
    },
    /// A chain describes more than 4 GiB (§2.7.5.2).
    #[error("chain {head} describes more than 4 GiB")]
    ChainBytes {
        /// The chain's head.
        head: u16,
    },
    /// A buffer for the device to read comes after one for it to write (§2.7.4.2).
    #[error("chain {head} has a readable buffer after a writable one")]
    ReadableAfterWritable {
        /// The chain's head.
        head: u16,
    },
    /// A ring could not be accessed. It was in guest memory when the queue was set up.
    #[error("the {part} is no longer in guest memory")]
    Ring {
        /// Which word or ring.
        part: &'static str,
    },
}

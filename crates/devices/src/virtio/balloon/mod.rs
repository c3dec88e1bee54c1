//! The memory balloon (virtio 1.2 §5.5): takes pages from the guest and gives their memory back to the host, lets the
//! guest take them back, receives which pages are unused, and the guest's statistics of its memory.
//!
//! | queue | what the driver sends | what is done |
//! |---|---|---|
//! | inflate | numbers of pages given up | their memory is discarded |
//! | deflate | numbers of pages taken back | nothing: a page that is touched is there again, zeroed |
//! | statistics | figures | kept; asked for again every few seconds |
//! | reporting | free pages themselves | their memory is discarded |
//!
//! Pages are numbers from a hostile guest: those outside memory are counted and skipped, and a turn discards a bounded
//! amount. How much the guest should give up is decided elsewhere, through a [`BalloonHandle`].

mod device;
mod discard;
mod handle;
mod statistics;
mod work;

pub use device::{BalloonDevice, BalloonDeviceConfig, BalloonError};
pub use handle::{BalloonHandle, BalloonTargetError};

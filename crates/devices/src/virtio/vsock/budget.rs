//! How many bytes from its guest a device buffers for all of its connections together. Pure.
//!
//! What a connection may send is promised before it is sent and cannot be taken back (virtio 1.2 §5.10.6.3), so the
//! budget is one of promises: each connection always has [`LEAST_BYTES`], and beyond that a part of what all share.
//! None takes more than a part of what is free, so that a few that rest on large promises leave something to others.
//! Bytes that were passed on, and connections that end, give their part back.

use super::connection::BUFFER_BYTES;

/// The most connections, callers included.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Bytes that each connection may have promised or buffered in any case.
pub(super) const LEAST_BYTES: u32 = 4 << 10;
/// Bytes that the connections share beyond that.
pub(super) const SHARED_BYTES: u32 = 1 << 20;
/// The part of the free shared bytes that one connection may take.
const PART: u32 = 8;

/// What is left of the shared bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    free: u32,
}

/// How much of the shared bytes one connection has. Not to be copied: it is given back by [`Budget::recount`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Share(u32);

impl Budget {
    pub(super) fn new() -> Self {
        Self { free: SHARED_BYTES }
    }

    /// How many bytes a connection with `share` may have promised and kept from now on, what it has already included.
    pub(super) fn window(&self, share: &Share) -> u32 {
        // Both are parts of what is shared.
        (LEAST_BYTES + (self.free + share.0) / PART).min(BUFFER_BYTES)
    }

    /// Takes note that the connection with `share` has `bytes` promised or kept: at most what it had before, or
    /// [`Budget::window`].
    pub(super) fn recount(&mut self, share: &mut Share, bytes: u32) {
        let whole = self.free + share.0;
        let now = bytes.saturating_sub(LEAST_BYTES);
        debug_assert!(now <= whole, "a connection has {bytes} bytes, and {whole} were left to share");
        share.0 = now.min(whole);
        self.free = whole - share.0;
    }

    /// Shared bytes that no connection has taken.
    #[cfg(test)]
    pub(super) fn free(&self) -> u32 {
        self.free
    }
}

#[cfg(test)]
mod tests;

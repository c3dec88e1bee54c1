//! What a network card has done, as its guest sees it, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::statistics::InterfaceStatistics;

/// Live counters of one card, since it was made. Bytes are those of frames without the virtio header.
#[derive(Debug, Default)]
pub struct NetCounters {
    receive_bytes: AtomicU64,
    receive_frames: AtomicU64,
    receive_dropped: AtomicU64,
    transmit_bytes: AtomicU64,
    transmit_frames: AtomicU64,
    transmit_dropped: AtomicU64,
    /// Who counts the frames that pass this process by.
    interface: Option<InterfaceStatistics>,
}

/// [`NetCounters`] at one moment, each value on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounts {
    /// Bytes of frames the guest received.
    pub receive_bytes: u64,
    /// Frames the guest received.
    pub receive_frames: u64,
    /// Frames that did not fit the guest's buffers, and buffers too small for any frame.
    pub receive_dropped: u64,
    /// Bytes of frames the guest sent.
    pub transmit_bytes: u64,
    /// Frames the guest sent.
    pub transmit_frames: u64,
    /// Frames sent by the guest that the host did not take.
    pub transmit_dropped: u64,
}

impl NetCounts {
    /// Each value of both, combined.
    pub(super) fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            receive_bytes: with(self.receive_bytes, other.receive_bytes),
            receive_frames: with(self.receive_frames, other.receive_frames),
            receive_dropped: with(self.receive_dropped, other.receive_dropped),
            transmit_bytes: with(self.transmit_bytes, other.transmit_bytes),
            transmit_frames: with(self.transmit_frames, other.transmit_frames),
            transmit_dropped: with(self.transmit_dropped, other.transmit_dropped),
        }
    }
}

impl NetCounters {
    /// Of a card whose frames are counted by the host's interface.
    pub(super) fn of_interface(interface: Option<InterfaceStatistics>) -> Self {
        Self { interface, ..Self::default() }
    }

    /// The values now.
    #[must_use]
    pub fn counts(&self) -> NetCounts {
        let elsewhere = self.interface.as_ref().map(InterfaceStatistics::counts).unwrap_or_default();
        self.counts_here().combine(elsewhere, u64::wrapping_add)
    }

    fn counts_here(&self) -> NetCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetCounts {
            receive_bytes: load(&self.receive_bytes),
            receive_frames: load(&self.receive_frames),
            receive_dropped: load(&self.receive_dropped),
            transmit_bytes: load(&self.transmit_bytes),
            transmit_frames: load(&self.transmit_frames),
            transmit_dropped: load(&self.transmit_dropped),
        }
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.receive_frames.fetch_add(1, Ordering::Relaxed);
        self.receive_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_receive_dropped(&self) {
        self.receive_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_transmitted(&self, bytes: u64) {
        self.transmit_frames.fetch_add(1, Ordering::Relaxed);
        self.transmit_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_transmit_dropped(&self) {
        self.transmit_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

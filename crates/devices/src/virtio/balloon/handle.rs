//! A balloon's target and its figures, reachable from any thread.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use thiserror::Error;

use vm_model::{BalloonCounters, Bytes};

use super::statistics::Statistics;

/// Bytes of the pages that a balloon counts in, whatever the guest's page size (virtio 1.2 §5.5.6).
pub(super) const PAGE_BYTES: u64 = 4096;
/// A figure that the guest has not reported.
const UNKNOWN: u64 = u64::MAX;

/// A target that the guest cannot reach.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "a balloon of {wanted} bytes is not possible: up to the guest's memory of {memory} bytes is accepted"
)]
pub struct BalloonTargetError {
    /// The target that was requested, in bytes.
    pub wanted: u64,
    /// The guest's memory, in bytes.
    pub memory: u64,
}

/// One balloon's target and figures. Figures are the guest's word, cut to what is possible.
#[derive(Debug)]
pub struct BalloonHandle {
    memory: u64,
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    available: AtomicU64,
    free: AtomicU64,
    total: AtomicU64,
    discarded: AtomicU64,
    refused_pages: AtomicU64,
}

impl BalloonHandle {
    pub(super) fn new(memory: u64, target: u64) -> Result<Self, BalloonTargetError> {
        let handle = Self {
            memory,
            target_pages: AtomicU32::new(0),
            actual_pages: AtomicU32::new(0),
            available: AtomicU64::new(UNKNOWN),
            free: AtomicU64::new(UNKNOWN),
            total: AtomicU64::new(UNKNOWN),
            discarded: AtomicU64::new(0),
            refused_pages: AtomicU64::new(0),
        };
        handle.set_target(target)?;
        Ok(handle)
    }

    /// Asks the guest to give up `bytes`, rounded down to a page; less than before gives memory back. The guest
    /// sees it when the transport notifies it of a change of configuration.
    ///
    /// # Errors
    /// The guest does not have that much.
    pub fn set_target(&self, bytes: u64) -> Result<(), BalloonTargetError> {
        let refused = BalloonTargetError { wanted: bytes, memory: self.memory };
        if bytes > self.memory {
            return Err(refused);
        }
        let pages = u32::try_from(bytes / PAGE_BYTES).map_err(|_| refused)?;
        self.target_pages.store(pages, Ordering::SeqCst);
        Ok(())
    }

    /// The figures now, each on its own.
    #[must_use]
    pub fn counters(&self) -> BalloonCounters {
        let reported = |figure: &AtomicU64| match figure.load(Ordering::Relaxed) {
            UNKNOWN => None,
            bytes => Some(Bytes::new(bytes)),
        };
        BalloonCounters {
            target: Bytes::new(u64::from(self.target_pages()) * PAGE_BYTES),
            actual: Bytes::new((u64::from(self.actual_pages()) * PAGE_BYTES).min(self.memory)),
            available: reported(&self.available),
            free: reported(&self.free),
            total: reported(&self.total),
            discarded: Bytes::new(self.discarded.load(Ordering::Relaxed)),
            refused_pages: self.refused_pages.load(Ordering::Relaxed),
        }
    }

    pub(super) fn target_pages(&self) -> u32 {
        self.target_pages.load(Ordering::SeqCst)
    }

    pub(super) fn actual_pages(&self) -> u32 {
        self.actual_pages.load(Ordering::SeqCst)
    }

    pub(super) fn set_actual_pages(&self, pages: u32) {
        self.actual_pages.store(pages, Ordering::SeqCst);
    }

    /// Stores the figures that the guest reports, and keeps those that it does not.
    pub(super) fn learn(&self, statistics: &Statistics) {
        for (figure, reported) in [
            (&self.available, statistics.available),
            (&self.free, statistics.free),
            (&self.total, statistics.total),
        ] {
            if let Some(bytes) = reported {
                figure.store(bytes.min(self.memory), Ordering::Relaxed);
            }
        }
    }

    /// Forgets the figures of a driver that is gone.
    pub(super) fn forget(&self) {
        self.set_actual_pages(0);
        for figure in [&self.available, &self.free, &self.total] {
            figure.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    pub(super) fn count_discarded(&self, bytes: u64) {
        self.discarded.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, pages: u64) {
        self.refused_pages.fetch_add(pages, Ordering::Relaxed);
    }
}

//! What a disk has done, readable from any thread.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vm_model::{DiskLatency, DurationRecorder};

use super::trouble::{TroubleCounts, TroubleRecord};

/// Live counters of one disk, since it was made. They survive resets of the device.
#[derive(Debug, Default)]
pub struct BlockCounters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    read_operations: AtomicU64,
    write_operations: AtomicU64,
    flush_operations: AtomicU64,
    erase_operations: AtomicU64,
    errors: AtomicU64,
    read_latency: DurationRecorder,
    write_latency: DurationRecorder,
    flush_latency: DurationRecorder,
    pub(super) trouble: TroubleRecord,
}

/// [`BlockCounters`] at one moment, each value on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Read requests completed.
    pub read_operations: u64,
    /// Write requests completed.
    pub write_operations: u64,
    /// Flush requests completed.
    pub flush_operations: u64,
    /// Discard and write-zeroes requests completed.
    pub erase_operations: u64,
    /// Requests that failed or made no sense.
    pub errors: u64,
    /// Requests that the host could not carry out when they were tried first, and that were kept.
    pub kept_requests: u64,
    /// How often such requests stopped the disk.
    pub troubles: u64,
    /// How long they did, in all.
    pub trouble_time: Duration,
    /// How long requests took that succeeded.
    pub latency: DiskLatency,
}

impl BlockCounters {
    /// The values now.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let TroubleCounts { kept_requests, troubles, time } = self.trouble.counts(Instant::now());
        BlockCounts {
            read_bytes: load(&self.read_bytes),
            written_bytes: load(&self.written_bytes),
            read_operations: load(&self.read_operations),
            write_operations: load(&self.write_operations),
            flush_operations: load(&self.flush_operations),
            erase_operations: load(&self.erase_operations),
            errors: load(&self.errors),
            kept_requests,
            troubles,
            trouble_time: time,
            latency: DiskLatency {
                read: self.read_latency.counts(),
                write: self.write_latency.counts(),
                flush: self.flush_latency.counts(),
            },
        }
    }

    /// What the host said of a request that it cannot carry out, while the disk keeps any; it takes no others until they
    /// went through.
    #[must_use]
    pub fn problem(&self) -> Option<io::Error> {
        self.trouble.problem()
    }

    pub(super) fn count_read(&self, bytes: u64, took: Duration) {
        self.read_latency.record(took);
        self.read_operations.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_write(&self, bytes: u64, took: Duration) {
        self.write_latency.record(took);
        self.write_operations.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_flush(&self, took: Duration) {
        self.flush_latency.record(took);
        self.flush_operations.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_erase(&self) {
        self.erase_operations.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

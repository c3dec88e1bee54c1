//! The recent past of one VM: a bounded ring of small points, enough for a sparkline and for a rate over a while.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Moment, VmMetrics};

/// Points kept unless told otherwise: ten minutes at the default interval of 5 s.
pub const DEFAULT_HISTORY_POINTS: usize = 120;

/// One sample, reduced to what a history is looked at for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// When it was read: milliseconds since 1970-01-01 UTC.
    pub sampled_at_unix_ms: u64,
    /// Percent of one core over the interval before it.
    pub cpu_percent: f64,
    /// Guest memory that occupied host memory.
    pub memory_resident_bytes: u64,
    /// Bytes received by the guest until then.
    pub network_rx_bytes: u64,
    /// Bytes sent by the guest until then.
    pub network_tx_bytes: u64,
    /// Bytes read from disks until then.
    pub disk_read_bytes: u64,
    /// Bytes written to disks until then.
    pub disk_write_bytes: u64,
}

/// The latest points of one VM, oldest first. Memory is taken as points arrive.
#[derive(Clone, Debug)]
pub struct History {
    points: VecDeque<(Moment, HistoryPoint)>,
    capacity: usize,
}

impl History {
    /// A history of at most `capacity` points; 0 keeps none.
    pub fn new(capacity: usize) -> Self {
        Self { points: VecDeque::new(), capacity }
    }

    /// The points, oldest first.
    pub fn points(&self) -> impl DoubleEndedIterator<Item = &HistoryPoint> + ExactSizeIterator {
        self.points.iter().map(|(_, point)| point)
    }

    /// How many points there are.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether nothing was sampled yet.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The points at most `window` older than `now`, oldest first.
    pub fn within(&self, now: Moment, window: Duration) -> impl Iterator<Item = &HistoryPoint> {
        self.points.iter().filter_map(move |(at, point)| {
            let age = now.monotonic.saturating_duration_since(at.monotonic);
            (age <= window).then_some(point)
        })
    }

    pub(crate) fn push(&mut self, at: Moment, metrics: &VmMetrics) {
        if self.capacity == 0 {
            return;
        }
        if self.points.len() == self.capacity {
            self.points.pop_front();
        }
        self.points.push_back((
            at,
            HistoryPoint {
                sampled_at_unix_ms: metrics.sampled_at_unix_ms,
                cpu_percent: metrics.cpu_percent,
                memory_resident_bytes: metrics.memory_resident_bytes,
                network_rx_bytes: metrics.network_rx_bytes,
                network_tx_bytes: metrics.network_tx_bytes,
                disk_read_bytes: metrics.disk_read_bytes,
                disk_write_bytes: metrics.disk_write_bytes,
            },
        ));
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new(DEFAULT_HISTORY_POINTS)
    }
}

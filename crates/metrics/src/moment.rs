//! One instant on both clocks: the monotonic one that rates are computed from, and the wall clock that people
//! read.

use std::time::{Duration, Instant, SystemTime};

/// When something was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For intervals and ages.
    pub monotonic: Instant,
    /// For showing; it may jump.
    pub wall: SystemTime,
}

impl Moment {
    /// Both clocks now.
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// This moment moved into the future; itself where a clock cannot express that.
    #[must_use]
    pub fn later_by(self, duration: Duration) -> Self {
        Self {
            monotonic: self.monotonic.checked_add(duration).unwrap_or(self.monotonic),
            wall: self.wall.checked_add(duration).unwrap_or(self.wall),
        }
    }

    /// Milliseconds since 1970-01-01 UTC by the wall clock; 0 for a clock set before that.
    pub(crate) fn unix_millis(self) -> u64 {
        let since_epoch = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

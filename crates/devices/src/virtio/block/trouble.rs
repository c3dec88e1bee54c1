//! Whether a disk's requests are kept because the host cannot carry them out, and how often and how long they were. Who
//! keeps them is `kept`.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Whether a disk is in trouble, and how often and how long it was. Readable from any thread.
#[derive(Debug, Default)]
pub(super) struct TroubleRecord {
    /// The error of the request that failed last; zero while there is no trouble.
    errno: AtomicI32,
    /// A leaf lock, held for a few instructions.
    figures: Mutex<Figures>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    kept_requests: u64,
    troubles: u64,
    /// Without the present one.
    time: Duration,
    since: Option<Instant>,
}

/// What a [`TroubleRecord`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TroubleCounts {
    pub(super) kept_requests: u64,
    pub(super) troubles: u64,
    pub(super) time: Duration,
}

impl TroubleRecord {
    /// What the host said last; `None` while there is no trouble.
    pub(super) fn problem(&self) -> Option<io::Error> {
        match self.errno.load(Ordering::Relaxed) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    /// The figures at `now`, the present trouble included.
    pub(super) fn counts(&self, now: Instant) -> TroubleCounts {
        let Figures { kept_requests, troubles, time, since } = *self.figures();
        let present = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        TroubleCounts { kept_requests, troubles, time: time.saturating_add(present) }
    }

    pub(super) fn count_request(&self) {
        self.figures().kept_requests += 1;
    }

    pub(super) fn begin(&self, errno: Errno, now: Instant) {
        let mut figures = self.figures();
        if figures.since.is_none() {
            figures.since = Some(now);
            figures.troubles += 1;
        }
        self.errno.store(errno.raw_os_error(), Ordering::Relaxed);
    }

    pub(super) fn end(&self, now: Instant) {
        let mut figures = self.figures();
        if let Some(since) = figures.since.take() {
            figures.time = figures.time.saturating_add(now.saturating_duration_since(since));
        }
        self.errno.store(0, Ordering::Relaxed);
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        // Nothing panics while the lock is held, so its content is whole.
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_and_their_time_add_up() {
        let (record, start) = (TroubleRecord::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let figures = |now| {
            let TroubleCounts { troubles, time, .. } = record.counts(now);
            (troubles, time.as_secs())
        };
        record.end(at(1));
        assert_eq!(figures(at(2)), (0, 0));
        record.begin(Errno::NOSPC, at(2));
        record.begin(Errno::IO, at(4));
        assert_eq!(figures(at(5)), (1, 3), "one trouble, whatever fails in it");
        assert_eq!(record.problem().and_then(|problem| problem.raw_os_error()), Some(libc::EIO));
        record.end(at(6));
        assert!(record.problem().is_none());
        record.begin(Errno::NOSPC, at(10));
        record.end(at(11));
        assert_eq!(figures(at(20)), (2, 5));
    }
}

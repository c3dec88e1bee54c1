//! Requests that the host cannot carry out: no space, a device that fails. They are kept, and tried again when the
//! machine says so; the guest does not learn of them, and is not to run meanwhile.
//!
//! ```text
//! in flight ──failed──→ waiting ──retry──→ in flight again ──ended well──→ answered
//!                          ↑                     │
//!                          └───── failed again ──┘
//! ```
//!
//! A disk is in trouble from the first request that is kept until the last one has ended. Nothing else is taken from
//! its queues in that time.
//!
//! A flush that failed is never tried again. Linux tells of a failed writeback once, and then takes the pages that it
//! could not write for clean: the second flush would succeed with the guest's data gone (fsync(2)). So the guest is
//! told, and does what it would do about a real disk.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use vm_model::OnIoError;

use super::counters::BlockCounters;
use super::engine::{Transfer, TransferKind};

/// The requests of one disk that were kept and have not ended.
pub(super) struct KeptRequests {
    policy: OnIoError,
    /// What is left of them, by slot, in the order in which they failed.
    waiting: Vec<(u16, Transfer)>,
    /// Those that wait, and those that are in flight again.
    open: usize,
    counters: Arc<BlockCounters>,
}

impl KeptRequests {
    pub(super) fn new(policy: OnIoError, counters: Arc<BlockCounters>) -> Self {
        Self { policy, waiting: Vec::new(), open: 0, counters }
    }

    /// Whether the disk is in trouble.
    pub(super) fn any(&self) -> bool {
        self.open > 0
    }

    /// The error for which a request is kept whose `transfer` ended with `error`; `None` where the guest is to be told.
    pub(super) fn reason_to_keep(&self, transfer: &Transfer, error: &io::Error) -> Option<Errno> {
        match (self.policy, transfer.kind) {
            (OnIoError::Report, _) | (OnIoError::Pause, TransferKind::Flush) => None,
            (
                OnIoError::Pause,
                TransferKind::Read | TransferKind::Write | TransferKind::Erase | TransferKind::Fill,
            ) => Errno::from_io_error(error).filter(|errno| is_of_the_host(*errno)),
        }
    }

    /// Keeps what is left of the request in `slot`. `first` tells whether it was not kept before.
    pub(super) fn keep(&mut self, slot: u16, transfer: Transfer, errno: Errno, attempt: Attempt) {
        if attempt == Attempt::First {
            self.open += 1;
            self.counters.trouble.count_request();
        }
        self.counters.trouble.begin(errno, Instant::now());
        self.waiting.push((slot, transfer));
    }

    /// Those that wait, to be started again.
    pub(super) fn take_waiting(&mut self) -> Vec<(u16, Transfer)> {
        std::mem::take(&mut self.waiting)
    }

    /// One of them has ended.
    pub(super) fn ended(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.counters.trouble.end(Instant::now());
        }
    }

    /// Forgets them all, and gives those that wait: nobody waits for them any more.
    pub(super) fn abandon(&mut self) -> Vec<(u16, Transfer)> {
        self.open = 0;
        self.counters.trouble.end(Instant::now());
        self.take_waiting()
    }
}

/// How often a request was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Once.
    First,
    /// It failed before and was kept.
    Repeated,
}

/// Whether `errno` tells of something that the host is short of or that fails, and that may be mended. What is left out
/// stays as it is however often one tries: the medium lost a sector (`ENODATA`, `EILSEQ`), the file cannot be so large, or
/// this process asked for something wrong.
fn is_of_the_host(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::ROFS
            | Errno::NOMEM
            | Errno::NOBUFS
            | Errno::AGAIN
            | Errno::NODEV
            | Errno::NXIO
            | Errno::NOLINK
            | Errno::REMOTEIO
            | Errno::STALE
            | Errno::TIMEDOUT
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::vectors::IoVectors;

    fn reason(policy: OnIoError, kind: TransferKind, errno: Errno) -> Option<Errno> {
        let kept = KeptRequests::new(policy, Arc::default());
        kept.reason_to_keep(&Transfer::of_vectors(kind, 0, IoVectors::default()), &errno.into())
    }

    #[test]
    fn only_what_the_host_may_mend_is_kept() {
        for kind in [TransferKind::Read, TransferKind::Write, TransferKind::Erase, TransferKind::Fill] {
            for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::NOMEM] {
                assert_eq!(reason(OnIoError::Pause, kind, errno), Some(errno), "{kind:?}");
                assert_eq!(reason(OnIoError::Report, kind, errno), None, "{kind:?}");
            }
            for errno in [Errno::INVAL, Errno::BADF, Errno::FBIG, Errno::ILSEQ, Errno::ACCESS] {
                assert_eq!(reason(OnIoError::Pause, kind, errno), None, "{kind:?} {errno}");
            }
        }
    }

    #[test]
    fn a_failed_flush_is_told_whatever_failed() {
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
            assert_eq!(reason(OnIoError::Pause, TransferKind::Flush, errno), None, "{errno}");
        }
    }

    #[test]
    fn errors_that_are_not_the_kernels_are_told() {
        let kept = KeptRequests::new(OnIoError::Pause, Arc::default());
        let read = Transfer::of_vectors(TransferKind::Read, 0, IoVectors::default());
        assert_eq!(kept.reason_to_keep(&read, &io::ErrorKind::UnexpectedEof.into()), None);
    }
}

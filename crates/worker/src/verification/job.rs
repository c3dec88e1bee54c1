//! One store path being hashed, and those who wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix_artifacts::FileIdentities;
use vm_model::{Bytes, FailureReason};

use crate::supervisor::GivenUp;

/// How often whoever waits shows how far it is, and looks whether it still has to wait.
const LOOK: Duration = Duration::from_millis(50);

/// What became of a job.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The path has the hash, and its files are these.
    Right(FileIdentities),
    /// It has not, or that was not found out.
    Wrong(FailureReason),
    /// It came to no end: its thread was lost, or it was given up before it had one.
    Abandoned,
}

/// A path being hashed.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Bytes hashed so far.
    hashed: AtomicU64,
    /// How many wait for it.
    waiting: AtomicUsize,
    /// Written once.
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

/// One that waits for a job; leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Job>);

impl Job {
    /// Puts one more among those who wait.
    pub(super) fn join(self: &Arc<Self>) -> Waiter {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiter(Arc::clone(self))
    }

    /// How many wait for it.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// So many bytes have been hashed.
    pub(super) fn went_on(&self, hashed: u64) {
        self.hashed.store(hashed, Ordering::Relaxed);
    }

    /// Tells all who wait. What was told before stays.
    pub(super) fn end(&self, outcome: Outcome) {
        let mut told = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        told.get_or_insert(outcome);
        drop(told);
        self.ended.notify_all();
    }
}

impl Waiter {
    /// Waits for the end of the job, and shows how far it is; `None` where that was given up.
    pub(super) fn wait(&self, given_up: &GivenUp, show: &dyn Fn(Bytes)) -> Option<Outcome> {
        let mut told = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &*told {
                return Some(outcome.clone());
            }
            if given_up.is_set() {
                return None;
            }
            show(Bytes::new(self.0.hashed.load(Ordering::Relaxed)));
            told = self.0.ended.wait_timeout(told, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

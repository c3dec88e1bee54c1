//! How many machines are started at the same time.
//!
//! A start waits for its turn when its artifact is verified and its disks are copied, and has it until its guest's first
//! instruction. Verifying and copying, waits before another try, and machines that run take no turn: a VM whose disks do
//! not answer holds nobody up.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A start that takes longer than this waits for something, not for a processor: it no longer counts.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// The turns of a host.
#[derive(Debug)]
pub(crate) struct StartTurns(Arc<Semaphore>);

/// The right to start a machine, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl StartTurns {
    /// At most `most` starts at the same time.
    pub(crate) fn new(most: NonZeroUsize) -> Self {
        Self(Arc::new(Semaphore::new(most.get().min(Semaphore::MAX_PERMITS))))
    }

    /// A turn, where one is free at once.
    pub(super) fn try_take(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Turn { _permit: Some(permit) })
    }

    /// A turn, in the order of those who wait. Cancel-safe, but for the place in that order.
    pub(super) async fn take(&self) -> Turn {
        // It is never closed: an error would be no reason to start nothing.
        Turn { _permit: Arc::clone(&self.0).acquire_owned().await.ok() }
    }
}

impl Turn {
    /// Carries `start` out, and gives the turn back when that is done or takes too long.
    pub(super) async fn spend<T>(self, start: impl Future<Output = T>) -> T {
        self.spend_within(LONGEST_TURN, start).await
    }

    async fn spend_within<T>(self, longest: Duration, start: impl Future<Output = T>) -> T {
        let mut start = pin!(start);
        if let Ok(done) = timeout(longest, &mut start).await {
            return done;
        }
        drop(self);
        start.await
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_given_back_when_its_start_is_done_or_takes_too_long() {
        let turns = StartTurns::new(NonZeroUsize::MIN);
        let turn = turns.try_take().expect("nobody starts");
        assert!(turns.try_take().is_none());
        assert_eq!(turn.spend(async { 1 }).await, 1);

        // One that is stuck keeps the others waiting for a while only, and is carried out all the same.
        let (turn, released) = (turns.take().await, Arc::new(Notify::new()));
        let stuck = tokio::spawn({
            let released = Arc::clone(&released);
            async move { turn.spend_within(Duration::from_millis(5), released.notified()).await }
        });
        drop(turns.take().await);
        assert!(!stuck.is_finished());
        released.notify_one();
        stuck.await.expect("done");
    }
}

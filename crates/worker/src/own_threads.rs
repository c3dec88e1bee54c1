//! Threads for work on files of one owner: of a VM, of a store path that somebody asks about.
//!
//! A store or a disk that does not answer keeps a thread in the kernel for as long as it likes. The runtime's threads for
//! blocking work, of which there is a bounded number, would be used up by a few such VMs, and nothing else could be done
//! for any VM. So such work has threads of its
//! own, and an owner for whom too many are stuck gets no more.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use vm_model::{FailureKind, FailureReason};

use crate::failure::reason;

/// Threads that an owner has at most.
const MOST: usize = 8;

/// The threads of all owners.
#[derive(Debug, Default)]
pub(crate) struct OwnThreads {
    /// A handle for each thread, and one here, of owners that have any. Held for moments.
    seats: Mutex<BTreeMap<String, Arc<()>>>,
}

/// Why work was not done.
#[derive(Debug, Error)]
enum ThreadError {
    #[error("{MOST} threads still wait for the store or the disks of {owner}, which do not answer")]
    Stuck { owner: String },
    #[error("no thread can be had")]
    NoThread(#[source] io::Error),
    #[error("the thread was lost")]
    Lost(#[source] oneshot::error::RecvError),
}

impl OwnThreads {
    /// Does `work` on a thread of `owner`, which is named for `purpose`. Where nobody waits any more, what it answers is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        owner: &str,
        purpose: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FailureReason> {
        let failed = |kind, problem: ThreadError| reason(kind, &problem);
        let seat = self
            .seat(owner)
            .ok_or_else(|| failed(FailureKind::Host, ThreadError::Stuck { owner: owner.to_owned() }))?;
        let (answer, answered) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("{purpose}-{owner}").chars().take(15).collect());
        let spawned = thread.spawn(move || {
            let _ = answer.send(work());
            drop(seat);
        });
        spawned.map_err(|problem| failed(FailureKind::Host, ThreadError::NoThread(problem)))?;
        answered.await.map_err(|lost| failed(FailureKind::Machine, ThreadError::Lost(lost)))
    }

    /// Does `work` on a thread of `owner`, and waits for it for no longer than `patience`; `None` where that was not enough,
    /// or no thread can be had.
    pub(crate) fn run_within<T: Send + 'static>(
        &self,
        owner: &str,
        purpose: &str,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let seat = self.seat(owner)?;
        let (answer, answered) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(format!("{purpose}-{owner}").chars().take(15).collect());
        let spawned = thread.spawn(move || {
            let _ = answer.send(work());
            drop(seat);
        });
        spawned.ok()?;
        answered.recv_timeout(patience).ok()
    }

    fn seat(&self, owner: &str) -> Option<Arc<()>> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|_, seat| Arc::strong_count(seat) > 1);
        let seat = seats.entry(owner.to_owned()).or_default();
        (Arc::strong_count(seat) <= MOST).then(|| Arc::clone(seat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_owner_whose_threads_are_stuck_gets_no_more_and_another_does() {
        let (threads, stuck, other) = (Arc::new(OwnThreads::default()), "vm-1", "vm-2");
        let mut ends = Vec::new();
        for _ in 0..MOST {
            let (end, ended) = mpsc::channel::<()>();
            let (begin, begun) = oneshot::channel();
            let threads = Arc::clone(&threads);
            tokio::spawn(async move {
                let wait = move || {
                    let _ = begin.send(());
                    ended.recv().is_ok()
                };
                threads.run(stuck, "test", wait).await
            });
            begun.await.expect("it runs");
            ends.push(end);
        }
        let error = threads.run(stuck, "test", || 1).await.expect_err("all of them are stuck");
        assert_eq!(error.kind, FailureKind::Host);
        assert_eq!(threads.run(other, "test", || 1).await.expect("nothing is wrong with it"), 1);
        drop(ends);
        let begun = std::time::Instant::now();
        while threads.run(stuck, "test", || 1).await.is_err() {
            assert!(begun.elapsed().as_secs() < 20, "the threads do not end");
            tokio::task::yield_now().await;
        }
    }
}

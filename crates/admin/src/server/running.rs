//! Operations that are being carried out, and the newest of those that ended. Bounded in number.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use vm_model::{Caller, Timestamp, VmId};

use crate::{ApiError, ErrorCode, OperationState, OperationView, PowerVerb};

/// Most operations that are carried out at a time.
const MOST_RUNNING: usize = 256;
/// How many that ended are kept.
const MOST_ENDED: usize = 256;

/// The operations of a worker, since it was started.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// Protects the list. Held for moments.
    list: Mutex<List>,
    /// Told whenever one ends.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct List {
    operations: BTreeMap<u64, OperationView>,
    /// Those that ended, in the order in which they did.
    ended: VecDeque<u64>,
    last: u64,
}

impl Operations {
    /// Notes that `by` has `vm` be told `what`.
    ///
    /// # Errors
    /// So many are being carried out that no more are begun.
    pub(super) fn begin(&self, what: PowerVerb, vm: VmId, by: Caller) -> Result<OperationView, ApiError> {
        let mut list = self.lock();
        if list.operations.values().filter(|one| one.state == OperationState::Running).count() >= MOST_RUNNING
        {
            let message = format!("{MOST_RUNNING} operations are being carried out already");
            return Err(ApiError::new(ErrorCode::TooMany, message).about(vm.as_str()));
        }
        list.last += 1;
        let begun = OperationView {
            id: list.last,
            what,
            vm,
            state: OperationState::Running,
            started_at: Timestamp::now(),
            ended_at: None,
            by,
            outcome: None,
            error: None,
        };
        list.operations.insert(begun.id, begun.clone());
        Ok(begun)
    }

    /// Notes what became of operation `id`.
    pub(super) fn end(&self, id: u64, result: Result<Option<String>, ApiError>) {
        let mut list = self.lock();
        if let Some(operation) = list.operations.get_mut(&id) {
            operation.ended_at = Some(Timestamp::now());
            match result {
                Ok(outcome) => (operation.state, operation.outcome) = (OperationState::Done, outcome),
                Err(error) => (operation.state, operation.error) = (OperationState::Failed, Some(error)),
            }
        }
        list.ended.push_back(id);
        if list.ended.len() > MOST_ENDED
            && let Some(oldest) = list.ended.pop_front()
        {
            list.operations.remove(&oldest);
        }
        drop(list);
        self.changes.send_replace(());
    }

    /// Operation `id` as it is now.
    ///
    /// # Errors
    /// There is none of that number, or it ended long ago.
    pub(super) fn get(&self, id: u64) -> Result<OperationView, ApiError> {
        self.lock().operations.get(&id).cloned().ok_or_else(|| {
            ApiError::new(ErrorCode::NoSuchOperation, format!("there is no operation {id}"))
                .about(id.to_string())
                .hint(Some(format!(
                    "the newest {MOST_ENDED} that ended are kept until the worker is started again"
                )))
        })
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> Vec<OperationView> {
        self.lock().operations.values().cloned().collect()
    }

    /// Operation `id` when it has ended, or as it is after `longest`.
    ///
    /// # Errors
    /// As those of [`Operations::get`].
    pub(super) async fn wait(&self, id: u64, longest: Duration) -> Result<OperationView, ApiError> {
        let mut changes = self.changes.subscribe();
        let ended = async {
            loop {
                changes.borrow_and_update();
                let operation = self.get(id)?;
                if operation.state != OperationState::Running || changes.changed().await.is_err() {
                    return Ok(operation);
                }
            }
        };
        match timeout(longest, ended).await {
            Ok(ended) => ended,
            Err(_late) => self.get(id),
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Caller = Caller::process(1, 2, None);

    fn begin(operations: &Operations) -> Result<OperationView, ApiError> {
        operations.begin(PowerVerb::Stop, VmId::new("a"), BY)
    }

    #[test]
    fn neither_what_runs_nor_what_ended_grows_without_bound() {
        let operations = Operations::default();
        for _ in 0..MOST_RUNNING {
            begin(&operations).expect("there is room");
        }
        assert_eq!(begin(&operations).expect_err("there is none").code, ErrorCode::TooMany);
        for _ in 0..1000 {
            let last = operations.lock().last;
            operations.end(last, Ok(None));
            begin(&operations).expect("there is room again");
        }
        assert_eq!(operations.list().len(), MOST_RUNNING + MOST_ENDED);
        let newest = operations.lock().last;
        assert_eq!(operations.get(newest).expect("it runs").state, OperationState::Running);
        operations.end(1, Err(ApiError::new(ErrorCode::Late, "it took too long")));
        assert_eq!(operations.get(1).expect("it has just ended").state, OperationState::Failed);
        assert_eq!(operations.list().len(), MOST_RUNNING - 1 + MOST_ENDED);
        assert_eq!(
            operations.get(MOST_RUNNING as u64).expect_err("not kept").code,
            ErrorCode::NoSuchOperation
        );
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_end_and_no_longer_than_they_want() {
        let operations = Operations::default();
        let begun = begin(&operations).expect("begun").id;
        let early = operations.wait(begun, Duration::ZERO).await.expect("there");
        assert_eq!(early.state, OperationState::Running);
        let ending = async { operations.end(begun, Ok(Some("killed".to_owned()))) };
        let (ended, ()) = tokio::join!(operations.wait(begun, Duration::from_secs(60)), ending);
        let ended = ended.expect("there");
        assert_eq!((ended.state, ended.outcome.as_deref()), (OperationState::Done, Some("killed")));
        operations.wait(99, Duration::from_secs(60)).await.expect_err("there is none");
    }
}

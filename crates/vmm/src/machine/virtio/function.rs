//! One virtio device in its slot, and its lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use devices::virtio::pci::VirtioPciDevice;

/// How long to wait before a lock that is held is tried again.
const LOCK_AGAIN: Duration = Duration::from_millis(1);

/// One device and its slot.
pub(super) struct Function {
    pub(super) name: String,
    /// Held by vCPU threads for register accesses and by the event loop while it serves a queue.
    pub(super) transport: Arc<Mutex<VirtioPciDevice>>,
}

impl Function {
    pub(super) fn lock(&self) -> MutexGuard<'_, VirtioPciDevice> {
        // A panic in a device fails its machine; what is done until then does not matter.
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Function::lock`], but `None` when the lock is still held at `deadline`, as by a thread that was left behind.
    fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, VirtioPciDevice>> {
        loop {
            match self.transport.try_lock() {
                Ok(transport) => return Some(transport),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_AGAIN),
            }
        }
    }

    /// Whether no I/O is in flight any more, waiting for that until `deadline`. For a device that was reset. One that
    /// panics has nothing that could be waited for.
    pub(super) fn settles(&self, deadline: Instant) -> bool {
        let drained =
            AssertUnwindSafe(|| self.lock_until(deadline).is_some_and(|mut held| held.drain(deadline)));
        catch_unwind(drained).unwrap_or(true)
    }

    /// Does `what` by `step`, and answers as that does whether it was done in time. A panic goes no further: where another
    /// is on its way already, a second one would end the process and every machine in it.
    pub(super) fn contain(
        &self,
        what: &str,
        deadline: Instant,
        step: impl FnOnce(&mut VirtioPciDevice) -> bool,
    ) -> bool {
        let device = self.name.as_str();
        let contained =
            catch_unwind(AssertUnwindSafe(|| self.lock_until(deadline).map(|mut held| step(&mut held))));
        match contained {
            Ok(Some(true)) => return true,
            Ok(Some(false)) => tracing::warn!(device, what, "a device did not end in time"),
            Ok(None) => tracing::error!(device, what, "a device is held by a thread that was left behind"),
            Err(_told_by_the_hook) => {
                tracing::error!(device, what, "a device panicked while its machine ended")
            }
        }
        false
    }
}

//! The way back of a VM that was removed: it goes on with what is kept of it. Where what had its name is being deleted, it waits
//! for the end of that, and says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use vm_model::{DesiredState, FailureKind, Timestamp, VmId, VmStatus};

use super::context::HostContext;
use super::policy::growing_delay;
use super::step::Goal;
use super::task::{Task, Wanted};
use crate::failure::{chain, plain};
use crate::records::{RemovalStage, RunCounts, VmRecord};

/// How long a deletion may take without that being told.
const SILENCE: Duration = Duration::from_secs(5);

/// What is told of a deletion that takes longer, and what begins the reason of one that fails.
const TAKES_LONG: &str =
    "it waits until what is left of the removed VM of its name is deleted; the disk of that may not answer";
const FAILS: &str = "it waits until what is left of the removed VM of its name is deleted, which fails";

impl Task {
    /// Takes up the VM if it was removed before and is still kept. Where its deletion was begun, that is finished first; where nobody
    /// waits for that, the record stays as it is, and says to the next worker that the deletion is to be finished.
    pub(super) async fn revive(&mut self) -> Wanted {
        self.await_deletion(self.context.removed.revive(&self.id)).await;
        match load(Arc::clone(&self.context), self.id.clone()).await {
            Ok(Some(record)) if record.removal_stage() == Some(RemovalStage::Deleting) => {
                if self.finish_deletion().await == Wanted::No {
                    return Wanted::No;
                }
            }
            Ok(Some(mut record)) if record.assignment.id == self.id => {
                // What is counted of it begins anew, as its series did that ended with its removal.
                record.past_use = None;
                record.counted = RunCounts::default();
                info!(vm_id = %self.id, "the VM was removed before and comes back with its volumes");
                self.take_up(record);
            }
            Ok(Some(_) | None) => {}
            Err(problem) => {
                warn!(vm_id = %self.id, error = problem, "what was kept of the VM cannot be read")
            }
        }
        self.tell_waiting_is_over();
        Wanted::Yes
    }

    /// Deletes what an unfinished deletion has left of a VM of this name. It is tried again, ever more rarely, until it is
    /// done: no guest is to meet half of what there was. A VM that is removed meanwhile does not wait.
    async fn finish_deletion(&mut self) -> Wanted {
        let mut failures = 0_u32;
        while self.target.has_changed().is_ok() {
            let (context, id) = (Arc::clone(&self.context), self.id.clone());
            let finishing = move || {
                let idle = context.lock_idle(&id)?;
                context.forget(&id, &idle)
            };
            let finishing = self.context.own_threads.run(self.id.as_str(), "delete", finishing);
            let finished = self.await_deletion(finishing).await;
            let Err(problem) = finished.unwrap_or_else(|lost| Err(lost.message)) else {
                return Wanted::Yes;
            };
            let pause = growing_delay(failures);
            failures = failures.saturating_add(1);
            self.tell_failed_deletion(&problem, pause);
            // Both arms only wait. Whoever asks for something new has it tried at once.
            tokio::select! {
                changed = self.target.changed() => if changed.is_err() { return Wanted::No },
                () = sleep(pause) => {}
            }
            if self.target.borrow().goal == Goal::Gone {
                info!(vm_id = %self.id, "the VM is not waited for any more; the next worker, or VM of its name, goes on with the deletion");
                return Wanted::No;
            }
        }
        Wanted::No
    }

    /// Waits for the end of a deletion, and tells that where it takes long.
    async fn await_deletion<T>(&self, deletion: impl Future<Output = T>) -> T {
        tokio::pin!(deletion);
        if let Ok(done) = timeout(SILENCE, &mut deletion).await {
            return done;
        }
        if self.tell_host_trouble(TAKES_LONG) {
            warn!(vm_id = %self.id, "{TAKES_LONG}");
        }
        self.publish(self.waiting_status());
        deletion.await
    }

    /// Tells why the deletion fails, and when it is tried again: in the log once for each reason.
    fn tell_failed_deletion(&self, problem: &str, pause: Duration) {
        let reason = plain(FailureKind::Host, format!("{FAILS}: {problem}"));
        let is_told = self.info.borrow().last_failure.as_ref() == Some(&reason);
        self.info.send_modify(|info| info.next_start_at = Some(Timestamp::now().after(pause)));
        if is_told {
            self.publish(self.waiting_status());
        } else {
            self.publish_failure(&reason, self.waiting_status());
        }
    }

    /// What the VM is while it waits.
    fn waiting_status(&self) -> VmStatus {
        match self.target.borrow().goal {
            Goal::Be(DesiredState::Running | DesiredState::Paused) => VmStatus::Restarting,
            // It has no machine that would have to end first.
            Goal::Suspended => VmStatus::Stopped,
            Goal::Be(DesiredState::Stopped) | Goal::Gone => VmStatus::Stopping,
        }
    }

    /// What was told of the waiting is no longer so.
    fn tell_waiting_is_over(&self) {
        self.info.send_if_modified(|info| {
            let has_waited = info.status != VmStatus::Creating;
            if has_waited {
                (info.last_failure, info.next_start_at) = (None, None);
                info.status = VmStatus::Creating;
            }
            has_waited
        });
    }
}

async fn load(context: Arc<HostContext>, id: VmId) -> Result<Option<VmRecord>, String> {
    let loading = tokio::task::spawn_blocking(move || context.records.load(&id));
    loading.await.map_err(|lost| chain(&lost))?.map_err(|problem| chain(&problem))
}

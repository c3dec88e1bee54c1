//! The step of a supervisor that leads out of existence.

use std::sync::Arc;

use fail_points::{FailPoint, pass};
use tokio::time::sleep;
use tracing::{error, info, warn};
use vm_model::{EventKind, RemovedVm, Timestamp, VmStatus};

use super::task::{RETRY, Task};
use crate::failure::chain;
use crate::records::{Removal, RemovalStage, VmRecord};

impl Task {
    /// Removes the VM; whether it is gone. It is tried again where the host refuses. Volumes that hold data are kept for a
    /// while, and the record and the addresses with them.
    pub(super) async fn remove(&mut self) -> bool {
        self.publish(VmStatus::Stopping);
        self.drop_candidate().await;
        if let Some(problem) = self.runs_elsewhere().await {
            return self.not_removed(&problem).await;
        }
        self.held.send_replace(None);
        if let Err(problem) = self.take_trial_back().await {
            warn!(vm_id = %self.id, error = problem.message, "the disks stay as the definition on trial has left them");
            self.trial = None;
        }
        let (context, id, record) = (Arc::clone(&self.context), self.id.clone(), self.record.value().clone());
        // Deleting large files takes a while: not on a runtime's thread.
        let removing = move || {
            pass(FailPoint::RemovalBegun);
            let idle = context.lock_idle(&id)?;
            let holds_data = context.volumes.holds_data(&id).map_err(|problem| chain(&problem))?;
            let grace = context.lifecycle.removal_grace;
            let at = Timestamp::now();
            let removal = Removal { at, until: at.after(grace), stage: RemovalStage::Kept };
            let assignment = record.newest().clone();
            if !holds_data || grace.is_zero() {
                context.forget(&id, &idle)?;
                if !grace.is_zero() {
                    context.removed.remember(RemovedVm {
                        assignment,
                        removed_at: at,
                        kept_until: removal.until,
                    });
                }
                return Ok(None);
            }
            let record = VmRecord {
                assignment: assignment.clone(),
                in_force: None,
                rollout: None,
                removed: Some(removal),
                ..record
            };
            context.records.save(&record).map_err(|problem| chain(&problem))?;
            pass(FailPoint::RemovalKept);
            context.removed.put(RemovedVm { assignment, removed_at: at, kept_until: removal.until });
            Ok(Some(removal))
        };
        let removed = self.context.own_threads.run(self.id.as_str(), "remove", removing).await;
        let removed = removed.unwrap_or_else(|lost| Err(lost.message));
        match removed {
            Ok(None) => {
                info!(vm_id = %self.id, "removed");
                self.info.happened(EventKind::VmRemoved { kept_until: None });
                true
            }
            Ok(Some(Removal { until, .. })) => {
                info!(vm_id = %self.id, %until, "removed; its volumes are kept, and come back with it, until then");
                self.info.happened(EventKind::VmRemoved { kept_until: Some(until) });
                self.context.kept_changed.notify_waiters();
                true
            }
            Err(message) => self.not_removed(&message).await,
        }
    }

    /// The VM is still there, and says why; it is tried again.
    async fn not_removed(&self, problem: &str) -> bool {
        if self.tell_host_trouble(problem) {
            error!(vm_id = %self.id, error = problem, "the VM was not removed; trying again");
        } else {
            // Not at once: the lock may have been in another program's hands while that was about to be run.
            self.held.send_replace(Some(problem.to_owned()));
        }
        sleep(RETRY).await;
        false
    }
}

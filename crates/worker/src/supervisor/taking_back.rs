//! Taking a definition on trial back: its refusal on record, then its machine, then its disks and addresses, then the definition
//! before.

use std::sync::Arc;
use std::time::Duration;

use fail_points::{FailPoint, pass};
use tracing::{error, info, warn};
use vm_model::{EventKind, FailureKind, FailureReason, VmStatus, WantedChange};

use super::Target;
use super::acquired::give_addresses_back;
use super::policy::RunOutcome;
use super::task::Task;
use super::trial::{Trial, drop_stale_refusal};
use crate::capacity::Share;
use crate::definition::is_same_definition;
use crate::failure::reason;
use crate::records::{RefusedTrial, Rollout};
use crate::volumes::VolumeError;

impl Task {
    /// What the end of a machine comes to: of one on trial that is taken back, a failure of its definition.
    pub(super) fn end_on_trial(&self, end: RunOutcome) -> RunOutcome {
        match &self.trial {
            Some(Trial { refusal: Some(refused), .. }) => RunOutcome::Failed(refused.reason.clone()),
            Some(_) if self.is_taken_back_on_failure() => RunOutcome::Failed(refusal(end)),
            Some(_) | None => end,
        }
    }

    /// The machine on trial ends, or has ended, by `end`: that is put on record before anything of it is given up.
    pub(super) async fn note_refusal(&mut self, end: &RunOutcome) {
        let is_taken_back = self.is_taken_back_on_failure();
        let (Some(trial), RunOutcome::Failed(reason), true) = (&mut self.trial, end, is_taken_back) else {
            return;
        };
        // It may have become that of a later definition.
        let assignment = self.in_force.as_ref().map_or(&trial.tried, |in_force| &in_force.assignment).clone();
        trial.refusal = Some(RefusedTrial { assignment, reason: reason.clone() });
        let rollout = trial.on_record();
        if let Err(problem) = self.record.update(|record| record.rollout = Some(rollout)).await {
            // A later worker tries the definition again, which is no harm.
            error!(vm_id = %self.id, error = problem.message, "that the definition on trial is refused was not kept");
        }
        pass(FailPoint::RolloutRefused);
        self.info.happened(EventKind::RolloutFailed { problem: reason.message.clone() });
    }

    /// Follows the end of a machine on trial that is given up already, where its definition is taken back; answers `end`
    /// where it is not. `share` is the memory that was promised to it.
    pub(super) async fn follow_trial(
        &mut self,
        end: RunOutcome,
        ran_for: Duration,
        share: Share,
    ) -> Option<RunOutcome> {
        if self.trial.is_none() {
            return Some(end);
        }
        if !self.is_taken_back_on_failure() {
            // It is there to stay; its restart policy follows.
            self.accept_trial().await;
            return Some(end);
        }
        self.record_end(end.to_record(Some(ran_for))).await;
        if let RunOutcome::Failed(reason) = &end {
            self.publish_failure(reason, VmStatus::Restarting);
        }
        // The machine of the definition before takes its place.
        self.share = Some(share);
        self.interrupt_trial().await;
        None
    }

    /// Puts back what was before a definition on trial whose machine is gone, if one is. What is in the way is logged: the next
    /// start meets it again.
    pub(super) async fn interrupt_trial(&mut self) {
        if let Err(problem) = self.take_trial_back().await {
            error!(vm_id = %self.id, error = problem.message, "the definition on trial was not taken back; the next start tries again");
        }
    }

    /// Puts back what was before the definition on trial, if one is: its disks, its addresses as far as nobody else has them by now, and
    /// the definition itself. It has no machine
    /// any more. One that failed is refused from then on; any other is tried again by the next start.
    ///
    /// # Errors
    /// The host is in the way; the trial goes on being one.
    pub(super) async fn take_trial_back(&mut self) -> Result<(), FailureReason> {
        let Some(trial) = &self.trial else { return Ok(()) };
        let is_refused = trial.refusal.is_some();
        let rollout = is_refused.then(|| trial.on_record());
        let before = trial.before.assignment.as_ref().clone();
        if self.is_taken_back_on_failure() {
            let (context, id) = (Arc::clone(&self.context), self.id.clone());
            let addresses = trial.addresses.clone();
            let taking_back = move || {
                context.volumes.take_trial_back(&id)?;
                if let Some(before) = &addresses {
                    give_addresses_back(&context, &id, before);
                }
                Ok::<_, VolumeError>(())
            };
            let done = self.context.own_threads.run(self.id.as_str(), "back", taking_back).await?;
            done.map_err(|problem| reason(problem.kind(), &problem))?;
            pass(FailPoint::RolloutTakenBack);
            self.show_held_nics();
        }
        let update = self.record.update(|record| {
            record.in_force = (!is_same_definition(&before, &record.assignment)).then_some(before);
            record.rollout = rollout;
            drop_stale_refusal(record);
        });
        update.await?;
        let Some(trial) = self.trial.take() else { return Ok(()) };
        if let Some(description) = &trial.before.description {
            self.slot.describe(Arc::clone(description));
        }
        self.in_force = Some(trial.before);
        // It was made ready for the disks of the definition on trial.
        self.drop_made_candidate().await;
        let target = self.target.borrow().clone();
        match trial.refusal {
            Some(RefusedTrial { assignment, reason }) => {
                warn!(vm_id = %self.id, kind = %reason.kind, %reason, "the rollout failed; the definition before is in force again");
                if is_same_definition(&assignment, &target.assignment) {
                    self.refuse_for_good(&target, reason);
                }
            }
            None => info!(vm_id = %self.id, "the rollout is interrupted; the next start tries it again"),
        }
        self.show_definitions(&target);
        Ok(())
    }

    /// Follows a refusal that an earlier worker put on record.
    pub(super) fn recall_refusal(&mut self) {
        let target = self.target.borrow().clone();
        if let Some(reason) = self.refusal_on_record(&target) {
            self.refuse_for_good(&target, reason);
        }
    }

    /// Tells of a refusal that an earlier worker put on record.
    pub(super) fn show_refusal(&self) {
        let target = self.target.borrow().clone();
        if let Some(reason) = self.refusal_on_record(&target) {
            self.tell_refusal(&target, reason);
        }
    }

    /// Why the newest definition is refused, where that is on record.
    fn refusal_on_record(&self, target: &Target) -> Option<FailureReason> {
        let refused = self.record.value().rollout.as_deref().and_then(Rollout::refused)?;
        refused.is_of(&target.assignment).then(|| refused.reason.clone())
    }

    fn refuse_for_good(&mut self, target: &Target, reason: FailureReason) {
        self.keep_refused(target.stamp.definition);
        self.tell_refusal(target, reason);
    }

    fn tell_refusal(&self, target: &Target, reason: FailureReason) {
        let assignment = target.assignment.as_ref().clone();
        let wanted = WantedChange { assignment, refusal: Some(reason), next_try_at: None };
        self.info.send_modify(|info| info.wanted = Some(wanted));
    }
}

/// Why a definition is refused whose run on trial ends by `end`.
fn refusal(end: RunOutcome) -> FailureReason {
    let guest =
        |what: &str| FailureReason::new(FailureKind::Guest, format!("the guest {what} before it was ready"));
    match end {
        RunOutcome::PoweredOff => guest("switched itself off"),
        RunOutcome::Reset => guest("reset itself again and again"),
        RunOutcome::Failed(reason) => {
            let message = format!("failed before it was ready: {}", reason.message);
            FailureReason { message, ..reason }
        }
    }
}

//! The steps of a supervisor that lead into a machine and out of existence: starting and removing.

use std::sync::Arc;
use std::time::Instant;

use fail_points::{FailPoint, pass};
use health::Beginning;
use tokio::time::sleep;
use tracing::{error, info, warn};
use vm_model::{
    Assignment, DesiredState, FailureKind, FailureReason, InitialState, RemovedVm, Timestamp, VmId, VmStatus,
    VmTimings,
};

use super::Target;
use super::candidate::Progress;
use super::context::HostContext;
use super::live::boot;
use super::policy::RunOutcome;
use super::prepare::{Prepared, prepare};
use super::stage::StagedMachine;
use super::step::{Candidate, DefinitionNumber, Goal, RunState, Stamp, Vcpus};
use super::task::{RETRY, Task};
use crate::failure::{chain, reason};
use crate::records::{Removal, RemovalStage, VmRecord};

impl Task {
    /// Builds and starts a machine, unless another target comes meanwhile that has no use for it.
    pub(super) async fn boot(&mut self, target: &Target, vcpus: Vcpus) {
        self.show_new_start();
        let (number, assignment) = self.definition_to_boot(target);
        // A machine that nobody would remember after a crash is none that can be taken care of.
        let kept = self.record_run(target).await;
        if let Err(reason) = kept {
            return self.boot_failed(reason, target.stamp).await;
        }
        let staged = match self.staged(target, number, &assignment).await {
            Some(Ok(staged)) => staged,
            Some(Err(reason)) => return self.not_started(target, number, reason).await,
            // Nothing has begun.
            None => return self.keep(target, |record| record.running_since = None).await,
        };
        let share = self.share.take();
        let prepared = match prepare(&self.context, staged, share).await {
            Ok(prepared) => prepared,
            Err(reason) => return self.not_started(target, number, reason).await,
        };
        let definition = prepared.definition.clone();
        self.show_prepared(&prepared);
        let (initial, status) = match vcpus {
            Vcpus::Running => (InitialState::Running, VmStatus::Running),
            Vcpus::Parked => (InitialState::Paused, VmStatus::Paused),
        };
        let are_addresses_new = prepared.acquired.addresses;
        let watching = prepared.watching.clone();
        match boot(&self.context, &self.id, prepared, initial).await {
            Ok(machine) => {
                self.slot.put(machine.handle());
                let launched_at = machine.launched_at();
                let disks = definition.description.volumes.keys().cloned().collect();
                self.put_in_force(number, definition);
                self.state = RunState::Up { stamp: target.stamp, runs: number, vcpus, machine };
                self.watch_guest(watching, Beginning::Launched);
                self.show_definitions(target);
                self.publish_start(status, launched_at);
                self.settle_volumes(disks).await;
                if number == target.stamp.definition {
                    self.keep(target, |record| record.in_force = None).await;
                }
                self.look_at_machine().await;
            }
            Err(reason) => {
                if are_addresses_new {
                    self.info.send_modify(|info| info.nics.clear());
                }
                self.not_started(target, number, reason).await;
            }
        }
    }

    /// Tells that a start begins; what was known of the machine before is no longer true.
    fn show_new_start(&self) {
        self.info.send_modify(|info| {
            info.status = VmStatus::Creating;
            info.timings = VmTimings::default();
            info.hung = false;
            info.boot_trouble = None;
            info.next_start_at = None;
        });
    }

    /// Tells what the machine that is about to be launched is made of.
    fn show_prepared(&self, prepared: &Prepared) {
        self.info.send_modify(|info| {
            info.status = VmStatus::Booting;
            info.nics.clone_from(&prepared.nics);
            info.machine = Some(prepared.shape.clone());
            info.warnings.clone_from(&prepared.warnings);
            info.unverified.clone_from(&prepared.unverified);
            info.timings = prepared.timings;
        });
    }

    /// The definition that the next machine is made by: the newest, unless it was refused and the one before is there.
    fn definition_to_boot(&self, target: &Target) -> (DefinitionNumber, Arc<Assignment>) {
        let is_refused = match self.candidate(target) {
            Candidate::Refused { retry } => retry.is_none_or(|due| due > Instant::now()),
            Candidate::Unknown | Candidate::Pending | Candidate::Ready => false,
        };
        match &self.in_force {
            Some(in_force) if is_refused => (in_force.number, Arc::clone(&in_force.assignment)),
            Some(_) | None => (target.stamp.definition, Arc::clone(&target.assignment)),
        }
    }

    /// Puts on record that a run begins.
    async fn record_run(&mut self, target: &Target) -> Result<(), FailureReason> {
        let in_force = self.other_in_force(target);
        let wanted = Arc::clone(&target.assignment);
        self.record
            .update(|record| {
                record.assignment = wanted.as_ref().clone();
                record.in_force = in_force;
                record.powered_off = false;
                record.health = None;
                record.removed = None;
                record.running_since = Some(Timestamp::now());
            })
            .await
            .inspect(|()| pass(FailPoint::StartRecorded))
    }

    /// The machine of definition `number`, ready to be given its interfaces; or why there is none. `None` where it was given
    /// up because another target came.
    async fn staged(
        &mut self,
        target: &Target,
        number: DefinitionNumber,
        assignment: &Arc<Assignment>,
    ) -> Option<Result<StagedMachine, FailureReason>> {
        if number == target.stamp.definition {
            if let Some(staged) = self.take_ready() {
                return Some(Ok(staged));
            }
            if self.candidate(target) != Candidate::Pending {
                self.begin_candidate(target).await;
            }
            let staged = self.wait_for_candidate(target).await;
            if staged.as_ref().is_some_and(Result::is_ok) {
                self.progress = None;
            }
            return staged;
        }
        // What is in force is made ready beside a newest definition that stays refused.
        let mut aside = Some(Progress::of_in_force(&self.context, assignment, number, self.record.uuid()));
        let staged = wait(&mut aside, &mut self.target.clone(), target).await;
        if staged.is_none()
            && let Some(progress) = aside
        {
            progress.give_up(&self.context).await;
        }
        staged
    }

    async fn wait_for_candidate(&mut self, target: &Target) -> Option<Result<StagedMachine, FailureReason>> {
        let staged = wait(&mut self.progress, &mut self.target.clone(), target).await;
        if staged.is_none() {
            info!(vm_id = %self.id, "the start was given up");
            self.drop_candidate().await;
        }
        staged
    }

    /// The machine of definition `number` did not start. If that is the newest and there is one before, that one is next.
    async fn not_started(&mut self, target: &Target, number: DefinitionNumber, reason: FailureReason) {
        self.forget_taps();
        let is_newest = number == target.stamp.definition;
        if is_newest && self.in_force.as_ref().is_some_and(|in_force| in_force.number != number) {
            let earlier = self.refusals();
            return self.refuse(target, earlier, reason);
        }
        self.boot_failed(reason, target.stamp).await;
    }

    async fn boot_failed(&mut self, reason: FailureReason, stamp: Stamp) {
        self.forget_taps();
        self.drop_candidate().await;
        self.follow(RunOutcome::Failed(reason), None, stamp).await;
    }

    /// Puts in order what the start left behind of volumes. A failure is logged: what should have gone stays longer.
    pub(super) async fn settle_volumes(&self, disks: Vec<String>) {
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        let settling = tokio::task::spawn_blocking(move || {
            let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
            context.volumes.settle(&id, &disks, context.lifecycle.removal_grace)
        });
        let problem = match settling.await {
            Ok(Ok(())) => {
                pass(FailPoint::StartSettled);
                return self.context.kept_changed.notify_waiters();
            }
            Ok(Err(problem)) => chain(&problem),
            Err(lost) => chain(&lost),
        };
        warn!(vm_id = %self.id, error = problem, "replaced volumes stay until the next start");
    }

    /// Removes the VM; whether it is gone. It is tried again where the host refuses. Volumes that hold data are kept for a
    /// while, and the record and the addresses with them.
    pub(super) async fn remove(&mut self) -> bool {
        self.publish(VmStatus::Stopping);
        self.drop_candidate().await;
        let (context, id, record) = (Arc::clone(&self.context), self.id.clone(), self.record.value().clone());
        // Deleting large files takes a while: not on a runtime's thread.
        let removing = tokio::task::spawn_blocking(move || {
            pass(FailPoint::RemovalBegun);
            let idle = context.lock_idle(&id)?;
            let holds_data = context.volumes.holds_data(&id).map_err(|problem| chain(&problem))?;
            let grace = context.lifecycle.removal_grace;
            if !holds_data || grace.is_zero() {
                return context.forget(&id, &idle).map(|()| None);
            }
            let at = Timestamp::now();
            let removal = Removal { at, until: at.after(grace), stage: RemovalStage::Kept };
            let assignment = record.newest().clone();
            let record =
                VmRecord { assignment: assignment.clone(), in_force: None, removed: Some(removal), ..record };
            context.records.save(&record).map_err(|problem| chain(&problem))?;
            pass(FailPoint::RemovalKept);
            context.removed.put(RemovedVm { assignment, removed_at: at, kept_until: removal.until });
            Ok(Some(removal))
        });
        let removed = removing.await.unwrap_or_else(|lost| Err(reason(FailureKind::Machine, &lost).message));
        match removed {
            Ok(None) => {
                info!(vm_id = %self.id, "removed");
                true
            }
            Ok(Some(Removal { until, .. })) => {
                info!(vm_id = %self.id, %until, "removed; its volumes are kept, and come back with it, until then");
                self.context.kept_changed.notify_waiters();
                true
            }
            Err(message) => {
                if self.tell_host_trouble(&message) {
                    error!(vm_id = %self.id, error = message, "the VM was not removed; trying again");
                }
                sleep(RETRY).await;
                false
            }
        }
    }

    /// Takes up the VM if it was removed before and is still kept. Where its deletion was begun, that is finished first.
    pub(super) async fn revive(&mut self) {
        self.context.removed.revive(&self.id).await;
        match load(Arc::clone(&self.context), self.id.clone()).await {
            Ok(Some(record)) if record.removal_stage() == Some(RemovalStage::Deleting) => {
                self.finish_deletion().await;
            }
            Ok(Some(record)) if record.assignment.id == self.id => {
                info!(vm_id = %self.id, "the VM was removed before and comes back with its volumes");
                self.take_up(record);
            }
            Ok(Some(_) | None) => {}
            Err(problem) => {
                warn!(vm_id = %self.id, error = problem, "what was kept of the VM cannot be read")
            }
        }
    }
}

impl Task {
    /// Deletes what an unfinished deletion has left of a VM of this name. It is tried again until it is done: no guest is to
    /// meet half of what there was.
    async fn finish_deletion(&self) {
        while self.target.has_changed().is_ok() {
            let (context, id) = (Arc::clone(&self.context), self.id.clone());
            let finishing = tokio::task::spawn_blocking(move || {
                let idle = context.lock_idle(&id)?;
                context.forget(&id, &idle)
            });
            let finishing = finishing.await;
            match finishing.unwrap_or_else(|lost| Err(chain(&lost))) {
                Ok(()) => return,
                Err(problem) => {
                    error!(vm_id = %self.id, error = problem, "what was being deleted is still there; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

async fn load(context: Arc<HostContext>, id: VmId) -> Result<Option<VmRecord>, String> {
    let loading = tokio::task::spawn_blocking(move || context.records.load(&id));
    loading.await.map_err(|lost| chain(&lost))?.map_err(|problem| chain(&problem))
}

/// Waits until the machine is ready or refused; `None` where another target comes first that has no use for it.
async fn wait(
    progress: &mut Option<Progress>,
    targets: &mut tokio::sync::watch::Receiver<Target>,
    target: &Target,
) -> Option<Result<StagedMachine, FailureReason>> {
    let is_unwanted = |newer: &Target| match newer.goal {
        Goal::Be(DesiredState::Running | DesiredState::Paused) => newer.stamp != target.stamp,
        Goal::Be(DesiredState::Stopped) | Goal::Suspended | Goal::Gone => true,
    };
    // Losing the second arm loses nothing: it only waits. The first is cancel-safe.
    tokio::select! {
        staged = Progress::staged(progress) => Some(staged),
        // An error is a manager that was dropped: nobody wants anything any more.
        _ = targets.wait_for(is_unwanted) => None,
    }
}

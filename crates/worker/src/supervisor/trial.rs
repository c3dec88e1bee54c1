//! A definition on trial: begun before its machine is launched, and accepted, refused or interrupted.
//!
//! ```text
//! boot ──▶ begin_trial: on record, then disks copied ──▶ launched ──▶ look_at_trial (judged by `rollout`)
//!                                                                       │ accept: record, then disks
//!            take_trial_back ◀── machine gone ◀── note_refusal: record ◀┘ fail
//!   disks, then record; the definition before is in force again
//! ```
//!
//! A machine on trial that is stopped by order, or lost with its worker, says nothing of its definition: the disks go back
//! all the same, and the next start tries it again.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fail_points::{FailPoint, pass};
use tracing::{error, info, warn};
use vm_model::{Assignment, FailureKind, FailureReason, RolloutFailure, RolloutSpec, VmStatus, WantedChange};

use super::Target;
use super::candidate::discard;
use super::context::HostContext;
use super::ending::not_ready;
use super::given_up::GivenUp;
use super::policy::RunOutcome;
use super::rollout::{Observed, Verdict, deadline, judge, to_wait_for};
use super::stage::{StagedMachine, copy_for_trial};
use super::start::unwanted;
use super::step::{DefinitionNumber, RunState};
use super::task::{InForce, RETRY, Task};
use crate::capacity::Share;
use crate::definition::is_same_definition;
use crate::failure::reason;
use crate::records::{Rollout, RolloutStage, VmRecord};

/// A definition on trial.
#[derive(Debug)]
pub(super) struct Trial {
    /// What is put in force again if it fails.
    before: InForce,
    /// What is tried.
    tried: Assignment,
    spec: RolloutSpec,
    /// From when on the deadline is counted.
    started: Instant,
    /// Why it failed, if it has.
    refusal: Option<FailureReason>,
}

impl Trial {
    /// The trial on record whose machine runs since `started`, or is gone.
    pub(super) fn recalled(rollout: &Rollout, started: Instant) -> Self {
        let assignment = Arc::new(rollout.before.clone());
        Self {
            before: InForce { number: DefinitionNumber::default(), assignment, description: None },
            tried: rollout.tried.clone(),
            spec: rollout.spec,
            started,
            refusal: rollout.refusal().cloned(),
        }
    }

    /// The machine that runs is launched now.
    pub(super) fn start(&mut self) {
        self.started = Instant::now();
    }

    /// When it is to be looked at again.
    pub(super) fn due(&self) -> Instant {
        let (deadline, now) = (deadline(self.spec, self.started), Instant::now());
        // What was due already did not go well.
        if self.refusal.is_none() && deadline > now { deadline } else { now + RETRY }
    }

    /// Its machine is that of another definition, too.
    pub(super) fn is_now_of(&mut self, assignment: &Assignment) {
        self.tried = assignment.clone();
    }

    /// What is on record of it.
    pub(super) fn on_record(&self) -> Box<Rollout> {
        let stage = match &self.refusal {
            Some(reason) => RolloutStage::Refused { reason: reason.clone() },
            None => RolloutStage::OnTrial,
        };
        let before = self.before.assignment.as_ref().clone();
        Box::new(Rollout { before, tried: self.tried.clone(), spec: self.spec, stage })
    }
}

/// Drops from `record` a refusal that is not about its newest definition.
pub(super) fn drop_stale_refusal(record: &mut VmRecord) {
    let assignment = &record.assignment;
    let is_stale = |rollout: &Rollout| rollout.refusal().is_some() && !rollout.tries(assignment);
    if record.rollout.as_deref().is_some_and(is_stale) {
        record.rollout = None;
    }
}

impl Task {
    /// Begins the trial of `staged`, which is definition `number`, where it is to be one: it is put on record, and its disks
    /// are copied. `None` where another target came that has no use for it.
    pub(super) async fn begin_trial(
        &mut self,
        target: &Target,
        number: DefinitionNumber,
        staged: StagedMachine,
    ) -> Option<Result<StagedMachine, FailureReason>> {
        let Some(spec) = to_wait_for(staged.rollout, staged.health.as_ref()) else { return Some(Ok(staged)) };
        let is_other = |before: &&InForce| {
            before.number != number && !is_same_definition(&before.assignment, &staged.assignment)
        };
        let Some(before) = self.in_force.as_ref().filter(is_other).cloned() else { return Some(Ok(staged)) };
        let tried = staged.assignment.as_ref().clone();
        let trial = Trial { before, tried, spec, started: Instant::now(), refusal: None };
        let rollout = trial.on_record();
        if let Err(problem) = self.record.update(|record| record.rollout = Some(rollout)).await {
            discard(&self.context, staged).await;
            return Some(Err(problem));
        }
        pass(FailPoint::RolloutRecorded);
        self.trial = Some(trial);
        match spec.on_failure {
            RolloutFailure::Keep => return Some(Ok(staged)),
            RolloutFailure::RollBack => {}
        }
        let given_up = GivenUp::default();
        let copying = copy_for_trial(&self.context, staged, &given_up);
        let copied =
            unless_unwanted(&self.context, copying, &given_up, unwanted(&mut self.target.clone(), target))
                .await;
        if copied.is_none() {
            info!(vm_id = %self.id, "the start was given up");
        }
        copied
    }

    /// Judges the definition on trial, if one is; answers how its run ends, where it fails and is to be taken back.
    pub(super) async fn look_at_trial(&mut self) -> Option<RunOutcome> {
        let (Some(trial), RunState::Up { machine, vcpus, .. }) = (&mut self.trial, &self.state) else {
            return None;
        };
        if let Some(refusal) = &trial.refusal {
            return Some(RunOutcome::Failed(refusal.clone()));
        }
        let health = machine.guest_health();
        let observed = Observed { vcpus: *vcpus, health: health.as_ref() };
        match judge(trial.spec, trial.started, observed, Instant::now()) {
            Verdict::Wait { .. } => None,
            Verdict::StartOver => {
                trial.start();
                None
            }
            Verdict::Accept => {
                self.accept_trial().await;
                None
            }
            Verdict::Fail { why } => match trial.spec.on_failure {
                RolloutFailure::RollBack => Some(not_ready(&why, &machine.evidence().await.console)),
                RolloutFailure::Keep => {
                    self.tell_failed_rollout(&why);
                    self.accept_trial().await;
                    None
                }
            },
        }
    }

    /// The definition on trial is there to stay: first on record, then for its disks.
    async fn accept_trial(&mut self) {
        if let Err(problem) = self.record.update(|record| record.rollout = None).await {
            // It is looked at again.
            error!(vm_id = %self.id, error = problem.message, "that the rollout is done was not kept");
            return;
        }
        pass(FailPoint::RolloutAccepted);
        self.trial = None;
        info!(vm_id = %self.id, "the rollout is done: the definition stays in force");
        let disks = self.writable_disks();
        self.settle_volumes(disks).await;
    }

    fn tell_failed_rollout(&self, why: &str) {
        warn!(vm_id = %self.id, why, "the rollout failed; the definition stays in force");
        let warning = format!("the rollout failed: {why}; procurator.rollout.on_failure is \"keep\"");
        self.info.send_modify(|info| info.warnings.push(warning));
    }

    /// Whether a run that fails now, or has ended, takes the definition back.
    pub(super) fn is_taken_back_on_failure(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| match trial.spec.on_failure {
            RolloutFailure::RollBack => true,
            RolloutFailure::Keep => false,
        })
    }

    /// What the end of a machine comes to: of one on trial that is taken back, a failure of its definition.
    pub(super) fn end_on_trial(&self, end: RunOutcome) -> RunOutcome {
        match &self.trial {
            Some(Trial { refusal: Some(reason), .. }) => RunOutcome::Failed(reason.clone()),
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
        trial.refusal = Some(reason.clone());
        let rollout = trial.on_record();
        if let Err(problem) = self.record.update(|record| record.rollout = Some(rollout)).await {
            // A later worker tries the definition again, which is no harm.
            error!(vm_id = %self.id, error = problem.message, "that the definition on trial is refused was not kept");
        }
        pass(FailPoint::RolloutRefused);
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
        if let Err(problem) = self.take_trial_back().await {
            error!(vm_id = %self.id, error = problem.message, "the definition on trial was not taken back; the next start tries again");
        }
        None
    }

    /// Puts back what was before the definition on trial, if one is: its disks, and the definition itself. It has no machine
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
            let done = tokio::task::spawn_blocking(move || context.volumes.take_trial_back(&id)).await;
            let done = done.map_err(|lost| reason(FailureKind::Machine, &lost))?;
            done.map_err(|problem| reason(problem.kind(), &problem))?;
            pass(FailPoint::RolloutTakenBack);
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
            Some(reason) => {
                warn!(vm_id = %self.id, kind = %reason.kind, %reason, "the rollout failed; the definition before is in force again");
                if is_same_definition(&trial.tried, &target.assignment) {
                    self.refuse_for_good(&target, reason);
                }
            }
            None => info!(vm_id = %self.id, "the rollout is interrupted; the next start tries it again"),
        }
        self.show_definitions(&target);
        Ok(())
    }

    /// Tells of a refusal that an earlier worker put on record.
    pub(super) fn recall_refusal(&mut self) {
        let target = self.target.borrow().clone();
        let refused =
            self.record.value().rollout.as_deref().filter(|rollout| rollout.tries(&target.assignment));
        if let Some(reason) = refused.and_then(Rollout::refusal).cloned() {
            self.refuse_for_good(&target, reason);
        }
    }

    fn refuse_for_good(&mut self, target: &Target, reason: FailureReason) {
        self.keep_refused(target.stamp.definition);
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

/// What `copying` comes to; nothing where another target comes first that has no use for it. Nothing is being copied then.
async fn unless_unwanted(
    context: &Arc<HostContext>,
    copying: impl Future<Output = Result<StagedMachine, FailureReason>>,
    given_up: &GivenUp,
    unwanted: impl Future<Output = ()>,
) -> Option<Result<StagedMachine, FailureReason>> {
    let mut copying = pin!(copying);
    // Losing the second arm loses nothing: it only waits. The first goes on below.
    tokio::select! {
        copied = &mut copying => return Some(copied),
        () = unwanted => given_up.set(),
    }
    if let Ok(staged) = copying.await {
        discard(context, staged).await;
    }
    None
}

//! A definition on trial: begun before its machine is launched, judged while it runs, and accepted. How it is taken back is
//! in `taking_back`.
//!
//! ```text
//! boot ──▶ begin_trial: on record, then disks copied ──▶ launched ──▶ look_at_trial (judged by `rollout`)
//!                                                                       │ accept: record, then disks
//!            take_trial_back ◀── machine gone ◀── note_refusal: record ◀┘ fail
//!   disks and addresses, then record; the definition before is in force again
//! ```
//!
//! A machine on trial that is stopped by order, or lost with its worker, says nothing of its definition: the disks go back
//! all the same, and the next start tries it again.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fail_points::{FailPoint, pass};
use tracing::{error, info, warn};
use vm_model::{
    Assignment, EventKind, FailureReason, OnTrial, RolloutFailure, RolloutSpec, Timestamp, VmNic,
};

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
use crate::definition::is_same_definition;
use crate::records::{RefusedTrial, Rollout, RolloutStage, VmRecord};

/// A definition on trial.
#[derive(Debug)]
pub(super) struct Trial {
    /// What is put in force again if it fails.
    pub(super) before: InForce,
    /// The definition that its machine was launched by.
    pub(super) tried: Assignment,
    pub(super) spec: RolloutSpec,
    /// From when on the deadline is counted.
    started: Instant,
    /// The same, as it is told.
    since: Timestamp,
    /// What is refused and why, if it has failed.
    pub(super) refusal: Option<RefusedTrial>,
    /// The addresses that the VM had before; not known where an earlier worker began it.
    pub(super) addresses: Option<Vec<VmNic>>,
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
            since: Timestamp::from(SystemTime::now().checked_sub(started.elapsed()).unwrap_or(UNIX_EPOCH)),
            refusal: rollout.refused().cloned(),
            addresses: rollout.addresses.clone(),
        }
    }

    /// The machine that runs is launched now.
    pub(super) fn start(&mut self) {
        (self.started, self.since) = (Instant::now(), Timestamp::now());
    }

    /// What is told of it; nothing where it has failed.
    fn told(&self) -> Option<OnTrial> {
        let RolloutSpec { ready_deadline, on_failure } = self.spec;
        let deadline = self.since.after(ready_deadline);
        self.refusal.is_none().then_some(OnTrial { since: self.since, deadline, on_failure })
    }

    /// When it is to be looked at again.
    pub(super) fn due(&self) -> Instant {
        let (deadline, now) = (deadline(self.spec, self.started), Instant::now());
        // What was due already did not go well.
        if self.refusal.is_none() && deadline > now { deadline } else { now + RETRY }
    }

    /// What is on record of it.
    pub(super) fn on_record(&self) -> Box<Rollout> {
        let stage = match &self.refusal {
            Some(refused) => RolloutStage::Refused(Box::new(refused.clone())),
            None => RolloutStage::OnTrial,
        };
        let before = self.before.assignment.as_ref().clone();
        let (tried, spec, addresses) = (self.tried.clone(), self.spec, self.addresses.clone());
        Box::new(Rollout { before, tried, spec, stage, addresses })
    }
}

/// Drops from `record` a refusal that is not about its newest definition.
pub(super) fn drop_stale_refusal(record: &mut VmRecord) {
    let assignment = &record.assignment;
    let is_stale = |rollout: &Rollout| rollout.refused().is_some_and(|refused| !refused.is_of(assignment));
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
        let (started, since) = (Instant::now(), Timestamp::now());
        let addresses = Some(self.context.leases.of(&self.id));
        let trial = Trial { before, tried, spec, started, since, refusal: None, addresses };
        let rollout = trial.on_record();
        if let Err(problem) = self.record.update(|record| record.rollout = Some(rollout)).await {
            discard(&self.context, staged).await;
            return Some(Err(problem));
        }
        pass(FailPoint::RolloutRecorded);
        self.info.happened(EventKind::RolloutBegun { store_path: trial.tried.store_path.clone() });
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

    /// Tells whether the definition in force is on trial.
    pub(super) fn show_trial(&self) {
        let told = self.trial.as_ref().and_then(Trial::told);
        self.info.send_if_modified(|info| std::mem::replace(&mut info.on_trial, told) != told);
    }

    /// Judges the definition on trial, if one is; answers how its run ends, where it fails and is to be taken back.
    pub(super) async fn look_at_trial(&mut self) -> Option<RunOutcome> {
        let (Some(trial), RunState::Up { machine, vcpus, .. }) = (&mut self.trial, &self.state) else {
            return None;
        };
        if let Some(refusal) = &trial.refusal {
            return Some(RunOutcome::Failed(refusal.reason.clone()));
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
    pub(super) async fn accept_trial(&mut self) {
        if let Err(problem) = self.record.update(|record| record.rollout = None).await {
            // It is looked at again.
            error!(vm_id = %self.id, error = problem.message, "that the rollout is done was not kept");
            return;
        }
        pass(FailPoint::RolloutAccepted);
        self.trial = None;
        self.info.happened(EventKind::RolloutAccepted);
        info!(vm_id = %self.id, "the rollout is done: the definition stays in force");
        let disks = self.writable_disks();
        self.settle_volumes(disks).await;
    }

    fn tell_failed_rollout(&self, why: &str) {
        self.info.happened(EventKind::RolloutFailed { problem: why.to_owned() });
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

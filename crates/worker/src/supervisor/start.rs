//! The step of a supervisor that leads into a machine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use fail_points::{FailPoint, pass};
use health::Beginning;
use tokio::sync::watch;
use tracing::{info, warn};
use vm_model::{
    Assignment, DesiredState, FailureKind, FailureReason, InitialState, Timestamp, VmStatus, VmTimings,
};

use super::Target;
use super::candidate::{Progress, RetryCost, discard};
use super::guest::Watching;
use super::host_ports::await_forwards;
use super::live::{LiveMachine, boot};
use super::policy::RunOutcome;
use super::prepare::{Definition, Prepared, prepare};
use super::publisher::Publisher;
use super::stage::StagedMachine;
use super::step::{Candidate, DefinitionNumber, Goal, RunState, Stamp, Vcpus};
use super::task::Task;
use super::trial::drop_stale_refusal;
use super::turns::Turn;
use crate::capacity::Share;
use crate::failure::{chain, plain};
use crate::records::SealKey;

/// A machine that has started.
struct Launched {
    machine: LiveMachine,
    vcpus: Vcpus,
    definition: Definition,
    watching: Option<Watching>,
}

impl Task {
    /// Builds and starts a machine, unless another target comes meanwhile that has no use for it.
    pub(super) async fn boot(&mut self, target: &Target, vcpus: Vcpus) {
        self.show_new_start();
        if let Err(reason) = self.take_trial_back().await {
            return self.boot_failed(reason, target.stamp).await;
        }
        let (number, assignment) = self.definition_to_boot(target);
        // What is being made ready forgets it.
        let earlier = self.refusals();
        // A machine that nobody would remember after a crash is none that can be taken care of.
        let kept = self.record_run(target).await;
        if let Err(reason) = kept {
            return self.boot_failed(reason, target.stamp).await;
        }
        let staged = match self.staged(target, number, &assignment).await {
            Some(Ok(staged)) => self.begin_trial(target, number, staged).await,
            Some(Err(reason)) => Some(Err(reason)),
            None => None,
        };
        let staged = match staged {
            Some(Ok(staged)) => staged,
            Some(Err(reason)) => return self.not_started(target, number, earlier, reason).await,
            None => return self.forget_start(target).await,
        };
        let has_ports = self.ports_given_up(target, &staged).await;
        let turn = if has_ports { self.turn_to_start(target).await } else { None };
        let Some(turn) = turn else {
            discard(&self.context, staged).await;
            return self.forget_start(target).await;
        };
        let share = self.share.take();
        match turn.spend(self.launch(staged, share, vcpus)).await {
            Ok(launched) => self.follow_launch(target, number, launched).await,
            Err(reason) => self.not_started(target, number, earlier, reason).await,
        }
    }

    /// Waits until the ports of the host that `staged` is to have are given up by those who give them up; whether it is still
    /// wanted then.
    async fn ports_given_up(&self, target: &Target, staged: &StagedMachine) -> bool {
        let mut targets = self.target.clone();
        // Both arms only wait.
        tokio::select! {
            () = await_forwards(&self.context, &self.id, &staged.nics) => true,
            () = unwanted(&mut targets, target) => false,
        }
    }

    /// Waits until so few other machines are being started that this one may be; `None` where another target comes first
    /// that has no use for it.
    async fn turn_to_start(&mut self, target: &Target) -> Option<Turn> {
        let turns = &self.context.start_turns;
        if let Some(turn) = turns.try_take() {
            return Some(turn);
        }
        self.info.send_modify(|info| info.waits_to_start = true);
        let mut targets = self.target.clone();
        // Both arms only wait. Whoever loses the first has given up its place.
        let turn = tokio::select! {
            turn = turns.take() => Some(turn),
            () = unwanted(&mut targets, target) => None,
        };
        self.info.send_modify(|info| info.waits_to_start = false);
        turn
    }

    /// Acquires what `staged` needs beyond what was made ready, and starts its machine. On failure nothing stays.
    async fn launch(
        &self,
        staged: StagedMachine,
        share: Option<Share>,
        vcpus: Vcpus,
    ) -> Result<Launched, FailureReason> {
        let mut prepared = prepare(&self.context, staged, share).await?;
        prepared.notes.uuid = Some(self.record.uuid());
        prepared.notes.counted = self.counted();
        let (definition, watching) = (prepared.definition.clone(), prepared.watching.clone());
        self.show_prepared(&prepared);
        let initial = match vcpus {
            Vcpus::Running => InitialState::Running,
            Vcpus::Parked => InitialState::Paused,
        };
        let notes = prepared.notes.to_text(self.record.value().seal_key.as_ref());
        match boot(&self.context, &self.id, prepared, notes, initial).await {
            Ok(machine) => Ok(Launched { machine, vcpus, definition, watching }),
            Err(reason) => {
                self.show_held_nics();
                Err(reason)
            }
        }
    }

    /// The machine of definition `number` has started: tells so, and puts in order what the start left behind.
    async fn follow_launch(&mut self, target: &Target, number: DefinitionNumber, launched: Launched) {
        let Launched { machine, vcpus, definition, watching } = launched;
        self.slot.put(machine.handle());
        let launched_at = machine.launched_at();
        let disks = definition.description.volumes.keys().cloned().collect();
        self.put_in_force(number, definition);
        self.state = RunState::Up { stamp: target.stamp, runs: number, vcpus, machine };
        self.watch_guest(watching, Beginning::Launched);
        self.show_definitions(target);
        let status = match vcpus {
            Vcpus::Running => VmStatus::Running,
            Vcpus::Parked => VmStatus::Paused,
        };
        self.publish_start(status, launched_at);
        self.settle_started(disks).await;
        if number == target.stamp.definition {
            self.keep(target, |record| record.in_force = None).await;
        }
        self.look_at_machine().await;
    }

    /// A start that has not come to a machine is not wanted any more.
    async fn forget_start(&mut self, target: &Target) {
        self.interrupt_trial().await;
        self.keep(target, |record| record.running_since = None).await;
    }

    /// Puts in order what the start of a machine with writable `disks` left behind; where its definition is on trial, that
    /// is the way back, which stays.
    async fn settle_started(&mut self, disks: Vec<String>) {
        match &mut self.trial {
            Some(trial) => trial.start(),
            None => self.settle_volumes(disks).await,
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
            info.limits = prepared.limits.values;
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
        let (wanted, counted) = (Arc::clone(&target.assignment), self.counted());
        let seal_key = SealKey::draw()
            .map_err(|_| plain(FailureKind::Host, "the kernel gives no random bytes".to_owned()))?;
        self.record
            .update(|record| {
                record.seal_key = Some(seal_key);
                record.assignment = wanted.as_ref().clone();
                record.in_force = in_force;
                record.may_start();
                record.health = None;
                record.removed = None;
                record.running_since = Some(Timestamp::now());
                record.counted = counted;
                drop_stale_refusal(record);
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
        let mut aside =
            Some(Progress::of_in_force(&self.context, assignment, number, self.record.uuid(), self.holds()));
        let staged = wait(&mut aside, &self.info, &mut self.target.clone(), target).await;
        if staged.is_none()
            && let Some(progress) = aside
        {
            progress.give_up(&self.context).await;
        }
        staged
    }

    async fn wait_for_candidate(&mut self, target: &Target) -> Option<Result<StagedMachine, FailureReason>> {
        let staged = wait(&mut self.progress, &self.info, &mut self.target.clone(), target).await;
        if staged.is_none() {
            info!(vm_id = %self.id, "the start was given up");
            self.drop_candidate().await;
        }
        staged
    }

    /// The machine of definition `number` did not start. If that is the newest, which was refused `earlier` times before, and
    /// there is one before, that one is next.
    async fn not_started(
        &mut self,
        target: &Target,
        number: DefinitionNumber,
        earlier: u32,
        reason: FailureReason,
    ) {
        self.forget_taps();
        if let Err(problem) = self.take_trial_back().await {
            return self.boot_failed(problem, target.stamp).await;
        }
        let is_newest = number == target.stamp.definition;
        if is_newest && self.in_force.as_ref().is_some_and(|in_force| in_force.number != number) {
            return self.refuse(target, earlier, RetryCost::Downtime, reason);
        }
        self.boot_failed(reason, target.stamp).await;
    }

    async fn boot_failed(&mut self, reason: FailureReason, stamp: Stamp) {
        self.forget_taps();
        self.drop_open_candidate().await;
        self.follow(RunOutcome::Failed(reason), None, stamp).await;
    }

    /// The store paths of what is in force and of what is wanted.
    fn needed_store_paths(&self) -> BTreeSet<PathBuf> {
        let wanted = Arc::clone(&self.target.borrow().assignment);
        let in_force = self.in_force.as_ref();
        let described = in_force.and_then(|in_force| in_force.description.as_ref());
        let described = described.iter().flat_map(|description| &description.store_paths).cloned();
        let assigned = in_force.map(|in_force| &in_force.assignment).into_iter().chain([&wanted]);
        let assigned = assigned
            .flat_map(|assignment| assignment.references.keys().chain([&assignment.store_path]).cloned());
        described.chain(assigned).collect()
    }

    /// Puts in order what the start left behind of volumes and of roots of garbage collection. A failure is logged: what should have gone stays longer.
    pub(super) async fn settle_volumes(&self, disks: Vec<String>) {
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        let needed = self.needed_store_paths();
        let settling = move || {
            context.gc_roots.keep_only(&id, &needed);
            let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
            context.volumes.settle(&id, &disks, context.lifecycle.removal_grace)
        };
        let problem = match self.context.own_threads.run(self.id.as_str(), "settle", settling).await {
            Ok(Ok(())) => {
                pass(FailPoint::StartSettled);
                return self.context.kept_changed.notify_waiters();
            }
            Ok(Err(problem)) => chain(&problem),
            Err(lost) => lost.message,
        };
        warn!(vm_id = %self.id, error = problem, "replaced volumes stay until the next start");
    }
}

/// Waits until the machine is ready or refused; `None` where another target comes first that has no use for it.
async fn wait(
    progress: &mut Option<Progress>,
    info: &Publisher,
    targets: &mut watch::Receiver<Target>,
    target: &Target,
) -> Option<Result<StagedMachine, FailureReason>> {
    // Losing the second arm loses nothing: it only waits. The first is cancel-safe.
    tokio::select! {
        staged = Progress::staged(progress, info) => Some(staged),
        () = unwanted(targets, target) => None,
    }
}

/// Returns when another target than `target` comes that has no use for a machine made for that one. Cancel-safe.
pub(super) async fn unwanted(targets: &mut watch::Receiver<Target>, target: &Target) {
    let is_unwanted = |newer: &Target| match newer.goal {
        Goal::Be(DesiredState::Running | DesiredState::Paused) => newer.stamp != target.stamp,
        Goal::Be(DesiredState::Stopped) | Goal::Suspended | Goal::Gone => true,
    };
    // An error is a manager that was dropped: nobody wants anything any more.
    let _ = targets.wait_for(is_unwanted).await;
}

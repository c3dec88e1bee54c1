//! The supervisor's loop: asks [`next_step`] what to do and does it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};
use tracing::{Instrument, error, info_span, warn};
use vm_model::{Assignment, DesiredState, EventKind, HealthSpec, MachinePhase, VmId, VmStatus};

use super::candidate::Progress;
use super::context::HostContext;
use super::ending::{classify, reported, standstill, unwell};
use super::guest::WriteBudget;
use super::handle::Ends;
use super::live::LiveMachine;
use super::policy::{RestartHistory, RestartPolicy};
use super::publisher::Publisher;
use super::record::Record;
use super::step::{DefinitionNumber, Goal, OrderNumber, RunState, Stamp, Step, Vcpus, next_step};
use super::stopping::ordered_end;
use super::trial::{Trial, drop_stale_refusal};
use super::{MachineSlot, Origin, RunningMachine, Supervisor, Target};
use crate::capacity::Share;
use crate::definition::Description;
use crate::failure::chain;
use crate::records::VmRecord;

/// How long to wait before something that failed on the host is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// One VM's supervisor.
pub(super) struct Task {
    pub(super) context: Arc<HostContext>,
    pub(super) id: VmId,
    /// A VM of the same name that goes first.
    predecessor: Option<Box<Supervisor>>,
    /// Whether it may be one that was removed and is kept.
    is_new: bool,
    pub(super) target: watch::Receiver<Target>,
    /// The target that was taken over last.
    acknowledged: Option<Target>,
    pub(super) info: Publisher,
    pub(super) slot: MachineSlot,
    pub(super) state: RunState<LiveMachine>,
    pub(super) history: RestartHistory,
    /// What the history's failures happened under.
    pub(super) stamp: Stamp,
    /// When it is restarted: what its definition says, else what holds on this host.
    pub(super) restart: RestartPolicy,
    pub(super) record: Record,
    /// The definition that its newest machine was made by.
    pub(super) in_force: Option<InForce>,
    /// How far the newest definition is, where that is another.
    pub(super) progress: Option<Progress>,
    /// How often what its guest says of itself may still be put on record.
    pub(super) health_writes: WriteBudget,
    /// What is to be watched of the guest of a machine that was taken over.
    pub(super) unwatched: Option<HealthSpec>,
    /// The definition on trial: there until it is accepted, or what was before it is put back.
    pub(super) trial: Option<Trial>,
    /// The memory that was promised to a machine which is stopped for another to take its place.
    pub(super) share: Option<Share>,
    /// Hears when a network of this host has become another than it was.
    networks: watch::Receiver<()>,
    /// Hands over the VM's machine, where its process is taken over after the start of the worker; see `held`.
    pub(super) late: Option<mpsc::Receiver<RunningMachine>>,
    /// What keeps the VM's lock from being taken, while something does.
    pub(super) held: watch::Sender<Option<String>>,
    /// The order that is followed.
    followed: watch::Sender<OrderNumber>,
}

/// The definition that a VM's newest machine was made by.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) number: DefinitionNumber,
    pub(super) assignment: Arc<Assignment>,
    /// Not known of a machine of an earlier worker.
    pub(super) description: Option<Arc<Description>>,
}

/// Whether anybody is left who wants the VM.
#[derive(PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    /// The manager was dropped without a word.
    No,
}

impl Task {
    pub(super) fn new(context: Arc<HostContext>, ends: Ends, slot: MachineSlot, origin: Origin) -> Self {
        let Ends { target, info, late, held, followed } = ends;
        let assignment = Arc::clone(&target.borrow().assignment);
        let publisher = {
            let (events, meters) = (Arc::clone(&context.events), Arc::clone(&context.meters));
            Publisher::new(info, context.changes.clone(), events, meters)
        };
        let (predecessor, found, running) = match origin {
            Origin::New => (None, None, None),
            Origin::After(predecessor) => (Some(predecessor), None, None),
            Origin::Record(record) => (None, Some(*record), None),
            Origin::Running(record, machine) => (None, Some(*record), Some(*machine)),
        };
        let networks = context.networks.watch();
        let mut task = Self {
            restart: context.lifecycle.restart,
            record: Record::new(Arc::clone(&context), VmRecord::new(assignment.as_ref().clone())),
            context,
            id: assignment.id.clone(),
            predecessor,
            is_new: found.is_none(),
            target,
            acknowledged: None,
            info: publisher,
            slot,
            state: RunState::Off,
            history: RestartHistory::default(),
            stamp: Stamp::default(),
            in_force: None,
            progress: None,
            health_writes: WriteBudget::new(Instant::now()),
            unwatched: None,
            trial: None,
            share: None,
            networks,
            late,
            held,
            followed,
        };
        let uuid = task.record.uuid();
        task.info.send_modify(|info| info.uuid = Some(uuid));
        if let Some(record) = found {
            task.recall(record);
        }
        match running {
            Some(machine) => {
                let runs = machine.number(task.record.value());
                task.begin_with(machine, runs);
            }
            // Its machine is gone. What is refused already may have to be put back, too.
            None => {
                let rollout = task.record.value().rollout.as_deref();
                task.trial = rollout.map(|rollout| Trial::recalled(rollout, Instant::now()));
            }
        }
        // Before anybody plans: what was refused claims nothing.
        task.show_refusal();
        task
    }

    /// Begins where the worker before left off.
    fn recall(&mut self, record: VmRecord) {
        self.info.happened(EventKind::VmTakenUp { store_path: record.newest().store_path.clone() });
        if record.powered_off {
            self.state = RunState::PoweredOff { stamp: self.target.borrow().stamp };
        }
        if let Some(reason) = &record.stays_failed {
            self.state = RunState::Failed { stamp: self.target.borrow().stamp };
            self.info.send_modify(|info| {
                info.last_failure = Some(reason.as_ref().clone());
                info.status = VmStatus::Failed(reason.as_ref().clone());
            });
        }
        let number = DefinitionNumber::default();
        let assignment = Arc::new(record.newest().clone());
        self.in_force = Some(InForce { number, assignment, description: None });
        self.history = RestartHistory::recalled(&record.ends);
        self.show_failures();
        self.take_up(record);
    }

    /// Goes on with what was on record.
    pub(super) fn take_up(&mut self, record: VmRecord) {
        self.show_held_nics();
        let counted = record.counted;
        self.info.send_modify(|info| {
            info.uuid = Some(record.uuid);
            info.ends.clone_from(&record.ends);
            (info.starts, info.restarts) = (counted.starts, counted.restarts);
            (info.resets, info.failures) = (counted.resets, counted.failures);
        });
        self.record = Record::found(Arc::clone(&self.context), record);
    }

    /// Works until the VM is gone, or nobody is left who wants it.
    pub(super) async fn run(mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.gone().await;
        }
        if self.is_new {
            let store_path = self.target.borrow().assignment.store_path.clone();
            self.info.happened(EventKind::VmCreated { store_path });
            if self.revive().await == Wanted::No {
                return;
            }
        }
        if !self.is_up() && self.wait_for_holder().await == Wanted::No {
            return;
        }
        // Nothing can be handed over any more.
        self.late = None;
        if self.is_up() {
            self.look_into_running().await;
        } else {
            self.note_lost_run().await;
            self.interrupt_trial().await;
        }
        if self.trial.is_none() {
            self.recall_refusal();
        }
        // A machine may have ended before it was taken over.
        self.look_at_machine().await;
        loop {
            let target = self.target.borrow_and_update().clone();
            // What a step before this one published is of an older order: each step ends with what it does.
            self.followed.send_replace(target.number);
            if self.acknowledged.as_ref().is_none_or(|last| !last.is(&target)) {
                self.acknowledge(&target).await;
                self.acknowledged = Some(target.clone());
            }
            self.show_trial();
            let order = info_span!("order", generation = %target.generation);
            if self.take_step(&target).instrument(order).await == Wanted::No {
                break;
            }
        }
        // Whatever machine is left here is killed by being dropped.
    }

    /// Does what is next on the way to `target`; whether anybody is left who wants the VM.
    async fn take_step(&mut self, target: &Target) -> Wanted {
        let candidate = self.candidate(target);
        match next_step(&self.state, target.goal, target.stamp, candidate, Instant::now()) {
            Step::Rest => return self.rest(None).await,
            Step::RestUntil(until) => return self.rest(Some(until)).await,
            Step::Boot(vcpus) => self.boot(target, vcpus).await,
            Step::Prepare => self.begin_candidate(target).await,
            Step::Stop => self.stop(target).await,
            Step::Pause | Step::Resume if self.target.has_changed().is_err() => return Wanted::No,
            Step::Pause => self.park(Vcpus::Parked).await,
            Step::Resume => self.park(Vcpus::Running).await,
            Step::Settle => self.state = RunState::Off,
            Step::Remove => {
                // A removal that the host refuses for long keeps nobody from ending.
                if self.remove().await || self.target.has_changed().is_err() {
                    return Wanted::No;
                }
            }
        }
        // A step may have been left because of that: it would only begin again.
        if self.target.has_changed().is_err() { Wanted::No } else { Wanted::Yes }
    }

    /// Takes over what the target says of the VM apart from where it should be, and keeps it on disk.
    async fn acknowledge(&mut self, target: &Target) {
        // Somebody had it stopped or asked for something new: what failed before says nothing of what comes.
        if target.stamp != self.stamp || target.goal == Goal::Be(DesiredState::Stopped) {
            self.stamp = target.stamp;
            self.history.clear();
            self.show_failures();
        }
        self.drop_older_candidate(target.stamp.definition).await;
        self.show_definitions(target);
        match (target.goal, &self.state) {
            (Goal::Suspended | Goal::Gone, _) => {}
            // It is about to start or to be settled, which is to be seen on disk first: it may not get to the end.
            (Goal::Be(DesiredState::Stopped), _) => self.keep(target, VmRecord::may_start).await,
            (Goal::Be(_), RunState::PoweredOff { stamp }) if *stamp == target.stamp => {
                self.keep(target, |record| record.powered_off = true).await;
            }
            // Whether it stays so after the next start of the worker was put on record when it failed.
            (Goal::Be(_), RunState::Failed { stamp }) if *stamp == target.stamp => {
                self.keep(target, |_| {}).await;
            }
            (Goal::Be(_), _) => self.keep(target, VmRecord::may_start).await,
        }
    }

    /// Brings the record on disk up to date with the target, and changes it as told. A failure is logged: a start insists on
    /// its record, and what runs goes on without.
    pub(super) async fn keep(&mut self, target: &Target, change: impl FnOnce(&mut VmRecord)) {
        let (assignment, in_force) = (target.assignment.as_ref().clone(), self.other_in_force(target));
        let is_on_trial = self.trial.is_some();
        let kept = self.record.update(|record| {
            record.assignment = assignment;
            record.in_force = in_force;
            record.removed = None;
            change(record);
            if !is_on_trial {
                drop_stale_refusal(record);
            }
        });
        if let Err(problem) = kept.await {
            error!(vm_id = %self.id, error = problem.message, "the VM's record was not kept");
        }
    }

    /// Waits for something to happen: another target, an event of the machine, a definition made ready, the time.
    async fn rest(&mut self, until: Option<Instant>) -> Wanted {
        match self.state {
            // Of a restored VM nobody has been told anything yet.
            RunState::Off | RunState::PoweredOff { .. } => self.publish(VmStatus::Stopped),
            RunState::Failed { .. } | RunState::Waiting { .. } | RunState::Up { .. } => {}
        }
        let trial_due = self.trial.as_ref().map(Trial::due);
        let until = until.into_iter().chain(self.healthy_at()).chain(trial_due).min();
        let due = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let RunState::Up { machine, .. } = &mut self.state else {
            // No machine follows at once: what was promised to one is others' again.
            self.share = None;
            // All arms only wait, so losing any loses nothing.
            return tokio::select! {
                changed = self.target.changed() => if changed.is_ok() { Wanted::Yes } else { Wanted::No },
                Ok(()) = self.networks.changed() => {
                    self.show_held_nics();
                    Wanted::Yes
                }
                () = due => Wanted::Yes,
            };
        };
        // All arms only wait, so losing any loses nothing.
        let staged = tokio::select! {
            changed = self.target.changed() => return if changed.is_ok() { Wanted::Yes } else { Wanted::No },
            () = machine.changed() => None,
            // An error is a manager that is gone, which the target tells too.
            Ok(()) = self.networks.changed() => {
                self.show_networks();
                return Wanted::Yes;
            }
            () = due => None,
            staged = Progress::staged(&mut self.progress, &self.info) => Some(staged),
        };
        match staged {
            Some(staged) => self.note_candidate(staged).await,
            None => self.look_at_machine().await,
        }
        Wanted::Yes
    }

    /// Takes notice of what the machine has done meanwhile.
    pub(super) async fn look_at_machine(&mut self) {
        let RunState::Up { machine, vcpus, .. } = &mut self.state else { return };
        let news = machine.news();
        // A machine that was made anew may run although it was paused before.
        match news.phase {
            MachinePhase::Running => *vcpus = Vcpus::Running,
            MachinePhase::Paused => *vcpus = Vcpus::Parked,
            MachinePhase::Booting | MachinePhase::Stopping | MachinePhase::Exited(_) => {}
        }
        self.history.note_resets_in_place(news.boots.resets.by_guest, Instant::now());
        self.info.send_if_modified(|info| news.tell(info));
        let dead = self.look_at_guest().await;
        let RunState::Up { machine, .. } = &self.state else { return };
        if let Some(ordered) = ordered_end(self.record.value(), machine) {
            return self.end_as_ordered(ordered).await;
        }
        let end = match (machine.exit(), machine.panic()) {
            (Some(exit), _) => Some(classify(exit, &machine.evidence().await)),
            (None, Some(panic)) => reported(panic, &machine.evidence().await.console),
            (None, None) if machine.stands_still() => Some(standstill(&machine.last_words().await)),
            (None, None) => match &dead {
                Some(why) => Some(unwell(why, &machine.evidence().await.console)),
                None => None,
            },
        };
        // One that stands still is still there. One that is only held to be dead may yet write to its disks what it has.
        let is_alive = dead.is_some() || end.is_none();
        let end = match end {
            Some(end) => Some(self.end_on_trial(end)),
            None => self.look_at_trial().await,
        };
        let Some(end) = end else {
            return self.note_health();
        };
        self.note_refusal(&end).await;
        let patience = if is_alive { self.context.lifecycle.stop_timeout } else { Duration::ZERO };
        if is_alive && self.trial.as_ref().is_some_and(|trial| trial.refusal.is_some()) {
            self.publish(VmStatus::Stopping);
        }
        let RunState::Up { machine, .. } = &self.state else { return };
        if let Err(problem) = machine.stop(patience).await {
            // Nothing of it is given up before it is proven gone; its end, should it come, is seen like any other.
            error!(vm_id = %self.id, error = chain(&problem), "the VM did not stop");
            return;
        }
        if let RunState::Up { stamp, machine, .. } = std::mem::replace(&mut self.state, RunState::Off) {
            let ran_for = machine.age();
            let share = machine.tear_down(&self.context, |problem| self.tell_unreleased(problem)).await;
            self.forget_taps();
            if let Some(end) = self.follow_trial(end, ran_for, share).await {
                self.follow(end, Some(ran_for), stamp).await;
            }
        }
    }

    async fn park(&mut self, wanted: Vcpus) {
        let RunState::Up { machine, vcpus, .. } = &mut self.state else { return };
        let (done, status) = match wanted {
            Vcpus::Parked => (machine.pause().await, VmStatus::Paused),
            Vcpus::Running => (machine.resume().await, VmStatus::Running),
        };
        match done {
            Ok(()) => {
                *vcpus = wanted;
                self.publish(status);
            }
            Err(problem) => {
                warn!(vm_id = %self.id, error = chain(&problem), "the VM was not {}; trying again", status.phase_name());
                // Its end may be what kept it from obeying.
                self.look_at_machine().await;
                sleep(RETRY).await;
            }
        }
    }
}

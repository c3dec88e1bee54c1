//! The supervisor's loop: asks [`next_step`] what to do and does it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{error, info, warn};
use vm_model::{DesiredState, FailureReason, MachinePhase, VmId, VmStatus};

use super::context::HostContext;
use super::ending::{classify, reported, standstill};
use super::live::LiveMachine;
use super::policy::{Next, RestartHistory, RestartPolicy, RunEnd};
use super::record::{Power, Record};
use super::step::{Goal, Revision, Standing, Step, Vcpus, next_step};
use super::{MachineSlot, Origin, Target};
use crate::failure::chain;
use crate::vms::VmInfo;

/// How often a running guest's console is looked at for a panic after which nothing follows.
const CONSOLE_CHECK: Duration = Duration::from_secs(1);
/// How long to wait before something that failed on the host is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// One VM's supervisor.
pub(super) struct Task {
    pub(super) context: Arc<HostContext>,
    pub(super) id: VmId,
    origin: Origin,
    pub(super) target: watch::Receiver<Target>,
    /// The target that was taken over last.
    acknowledged: Option<Target>,
    pub(super) info: watch::Sender<VmInfo>,
    pub(super) slot: MachineSlot,
    pub(super) standing: Standing<LiveMachine>,
    history: RestartHistory,
    /// What the history's failures happened under.
    revision: Revision,
    /// When it is restarted: what its artifact says, else what holds on this host.
    pub(super) restart: RestartPolicy,
    pub(super) record: Record,
}

/// Whether anybody is left who wants the VM.
#[derive(PartialEq, Eq)]
enum Wanted {
    Yes,
    /// The manager was dropped without a word.
    No,
}

impl Task {
    pub(super) fn new(
        context: Arc<HostContext>,
        target: watch::Receiver<Target>,
        info: watch::Sender<VmInfo>,
        slot: MachineSlot,
        origin: Origin,
    ) -> Self {
        let id = target.borrow().assignment.id.clone();
        let revision = Revision::default();
        let (origin, record) = match origin {
            Origin::Record(record) => (Origin::New, Record::found(Arc::clone(&context), record)),
            origin @ (Origin::New | Origin::After(_)) => (origin, Record::new(Arc::clone(&context))),
        };
        let standing = match record.power() {
            Power::SwitchedOff => Standing::PoweredOff { revision },
            Power::Wanted => Standing::Off,
        };
        Self {
            restart: context.lifecycle.restart,
            context,
            id,
            origin,
            target,
            acknowledged: None,
            info,
            slot,
            standing,
            history: RestartHistory::default(),
            revision,
            record,
        }
    }

    /// Works until the VM is gone, or nobody is left who wants it.
    pub(super) async fn run(mut self) {
        if let Origin::After(predecessor) = std::mem::replace(&mut self.origin, Origin::New) {
            predecessor.gone().await;
        }
        loop {
            let target = self.target.borrow_and_update().clone();
            if self.acknowledged.as_ref().is_none_or(|last| !last.is(&target)) {
                self.acknowledge(&target).await;
                self.acknowledged = Some(target.clone());
            }
            match next_step(&self.standing, target.goal, target.revision, Instant::now()) {
                Step::Rest => {
                    if self.rest(None).await == Wanted::No {
                        break;
                    }
                }
                Step::RestUntil(until) => {
                    if self.rest(Some(until)).await == Wanted::No {
                        break;
                    }
                }
                Step::Boot(vcpus) => self.boot(&target, vcpus).await,
                Step::Stop => self.stop().await,
                Step::Pause | Step::Resume if self.target.has_changed().is_err() => break,
                Step::Pause => self.park(Vcpus::Parked).await,
                Step::Resume => self.park(Vcpus::Running).await,
                Step::Settle => self.standing = Standing::Off,
                Step::Remove(addresses) => {
                    if self.remove(addresses).await {
                        break;
                    }
                }
            }
        }
        // Whatever machine is left here is killed by being dropped.
    }

    /// Takes over what the target says of the VM apart from where it should be, and keeps it on disk.
    async fn acknowledge(&mut self, target: &Target) {
        if target.revision != self.revision {
            self.revision = target.revision;
            self.history.clear();
        }
        self.info.send_if_modified(|info| {
            let changed = info.assignment != *target.assignment || info.generation != target.generation;
            if changed {
                info.assignment = target.assignment.as_ref().clone();
                info.generation = target.generation;
            }
            changed
        });
        match (target.goal, &self.standing) {
            (Goal::Suspended | Goal::Gone(_), _) => {}
            // It is about to start or to be settled, which is to be seen on disk first: it may not get to the end.
            (Goal::Be(DesiredState::Stopped), _) => self.keep(target, Power::Wanted).await,
            (Goal::Be(_), Standing::PoweredOff { revision }) if *revision == target.revision => {
                self.keep(target, Power::SwitchedOff).await;
            }
            (Goal::Be(_), _) => self.keep(target, Power::Wanted).await,
        }
    }

    /// Brings the record on disk up to date. A failure is logged: a start insists on its record, and what runs goes
    /// on without.
    async fn keep(&mut self, target: &Target, power: Power) {
        if let Err(problem) = self.record.keep(&target.assignment, power).await {
            error!(vm_id = %self.id, error = problem.message, "the VM's record was not kept");
        }
    }

    /// Waits for something to happen: another target, an event of the machine, the time.
    async fn rest(&mut self, until: Option<Instant>) -> Wanted {
        match self.standing {
            // Of a restored VM nobody has been told anything yet.
            Standing::Off | Standing::PoweredOff { .. } => self.publish(VmStatus::Stopped),
            Standing::Failed { .. } | Standing::Waiting { .. } | Standing::Up { .. } => {}
        }
        let due = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let Standing::Up { machine, .. } = &mut self.standing else {
            // Both arms only wait, so losing either loses nothing.
            return tokio::select! {
                changed = self.target.changed() => if changed.is_ok() { Wanted::Yes } else { Wanted::No },
                () = due => Wanted::Yes,
            };
        };
        // All arms only wait, so losing any loses nothing.
        tokio::select! {
            changed = self.target.changed() => return if changed.is_ok() { Wanted::Yes } else { Wanted::No },
            () = machine.changed() => {}
            () = sleep(CONSOLE_CHECK) => {}
        }
        self.look_at_machine().await;
        Wanted::Yes
    }

    /// Takes notice of what the machine has done meanwhile.
    pub(super) async fn look_at_machine(&mut self) {
        let Standing::Up { machine, vcpus, .. } = &mut self.standing else { return };
        let news = machine.news();
        // A machine that was made anew may run although it was paused before.
        match news.phase {
            MachinePhase::Running => *vcpus = Vcpus::Running,
            MachinePhase::Paused => *vcpus = Vcpus::Parked,
            MachinePhase::Booting | MachinePhase::Stopping | MachinePhase::Exited(_) => {}
        }
        self.history.note_resets_in_place(news.boots.resets.by_guest, Instant::now());
        self.info.send_if_modified(|info| news.tell(info));
        let end = match (machine.exit(), machine.panic()) {
            (Some(exit), panic) => Some(classify(exit, panic, &machine.console_lines())),
            (None, Some(panic)) => reported(panic, &machine.console_lines()),
            (None, None) if machine.console_grew() => standstill(&machine.console_lines()),
            (None, None) => None,
        };
        let Some(end) = end else { return };
        // One that stands still is still there.
        if let Err(problem) = machine.stop(Duration::ZERO).await {
            // Nothing of it is given up before it is proven gone; its end, should it come, is seen like any other.
            error!(vm_id = %self.id, error = chain(&problem), "the VM did not stop");
            return;
        }
        if let Standing::Up { revision, machine, .. } = std::mem::replace(&mut self.standing, Standing::Off) {
            let ran_for = machine.age();
            machine.tear_down(&self.context).await;
            self.forget_taps();
            self.follow(end, ran_for, revision).await;
        }
    }

    /// Decides what comes after the end of a run, and says so.
    pub(super) async fn follow(&mut self, end: RunEnd, ran_for: Duration, revision: Revision) {
        let now = Instant::now();
        match self.history.after(end, ran_for, self.restart, now) {
            Next::StayOff => {
                self.standing = Standing::PoweredOff { revision };
                let target = self.target.borrow().clone();
                // A newer target is acknowledged by itself.
                if matches!(target.goal, Goal::Be(_)) && target.revision == revision {
                    self.keep(&target, Power::SwitchedOff).await;
                }
                self.publish(VmStatus::Stopped);
            }
            Next::StayFailed(reason) => {
                self.standing = Standing::Failed { revision };
                self.publish_failure(&reason, VmStatus::Failed(reason.clone()));
            }
            Next::Restart { after, because } => {
                self.standing = Standing::Waiting { revision, until: now + after };
                self.info.send_modify(|info| info.restarts = info.restarts.saturating_add(1));
                match because {
                    // Both are published: whoever waits for a verdict on this start sees it, and after it what follows.
                    Some(reason) => self.publish_failure(&reason, VmStatus::Restarting),
                    None => self.publish(VmStatus::Restarting),
                }
            }
        }
    }

    async fn stop(&mut self) {
        let Standing::Up { machine, .. } = &self.standing else { return };
        self.publish(VmStatus::Stopping);
        match machine.stop(self.context.lifecycle.stop_timeout).await {
            Ok(method) => self.info.send_modify(|info| info.last_stop = Some(method)),
            Err(problem) => {
                // The machine may still run: nothing of it is given up before it is proven gone.
                error!(vm_id = %self.id, error = chain(&problem), "the VM did not stop; trying again");
                sleep(RETRY).await;
                return;
            }
        }
        if let Standing::Up { machine, .. } = std::mem::replace(&mut self.standing, Standing::Off) {
            machine.tear_down(&self.context).await;
            self.forget_taps();
        }
    }

    async fn park(&mut self, wanted: Vcpus) {
        let Standing::Up { machine, vcpus, .. } = &mut self.standing else { return };
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

    pub(super) fn forget_taps(&self) {
        self.info.send_modify(|info| info.nics.iter_mut().for_each(|nic| nic.tap = None));
    }

    pub(super) fn publish(&self, status: VmStatus) {
        self.info.send_if_modified(|info| {
            let changed = info.status != status;
            if changed {
                info!(vm_id = %self.id, phase = status.phase_name(), "now {status}");
                info.status = status;
            }
            changed
        });
    }

    /// Says that a machine has started. It is counted, because a short run may be over before anybody who waits for it
    /// has looked; and at once with the status, so that whoever sees the start sees no phase before it.
    pub(super) fn publish_start(&self, status: VmStatus) {
        info!(vm_id = %self.id, phase = status.phase_name(), "now {status}");
        self.info.send_modify(|info| {
            info.starts = info.starts.saturating_add(1);
            info.status = status;
        });
    }

    fn publish_failure(&self, reason: &FailureReason, status: VmStatus) {
        warn!(vm_id = %self.id, phase = status.phase_name(), %reason, "failed");
        self.info.send_modify(|info| {
            info.last_failure = Some(reason.clone());
            info.failures = info.failures.saturating_add(1);
            info.status = status;
        });
    }
}

//! What follows the end of a run: it is kept on record, told, and followed by a restart or none.

use std::time::{Duration, Instant};

use fail_points::{FailPoint, pass};
use tracing::{error, info, warn};
use vm_model::{FailureKind, FailureReason, MachineCounters, RunEnd, Timestamp, VmStatus};

use super::jitter::Jitter;
use super::policy::{Next, RestartPolicy, RunOutcome};
use super::step::{Goal, RunState, Stamp};
use super::task::Task;
use crate::failure::plain;
use crate::records::VmRecord;

impl Task {
    /// Keeps how a run ended. A failure is logged: the end itself is no smaller for it.
    pub(super) async fn record_end(&mut self, end: RunEnd) {
        info!(vm_id = %self.id, "the run ended: {end}");
        let ran_for = end.ran_for;
        pass(FailPoint::RunEnded);
        let (past_use, counted) = (self.past_use(), self.counted());
        let recorded = self.record.update(|record| {
            record.add_end(end);
            record.past_use = Some(Box::new(past_use));
            record.counted = counted;
        });
        match recorded.await {
            // Its host may forget the machine now, and not before: who comes after this worker would not hear of the end.
            Ok(()) => {
                pass(FailPoint::RunEndRecorded);
                self.slot.retire();
            }
            Err(problem) => {
                error!(vm_id = %self.id, error = problem.message, "how the run ended was not kept");
            }
        }
        let ends = self.record.value().ends.clone();
        self.info.send_modify(|info| {
            info.started_at = None;
            info.disk_trouble = None;
            info.boot_trouble = None;
            info.health = None;
            info.timings.ended =
                ran_for.map(|ran_for| info.timings.first_entry.unwrap_or_default() + ran_for);
            info.ends = ends;
        });
    }

    /// What the VM has used in all its runs so far, the one included that has just ended.
    fn past_use(&self) -> MachineCounters {
        let before = self.record.value().past_use.as_deref();
        match (self.slot.unrecorded_use(), before) {
            (Some(newest), Some(before)) => newest.added_to(before),
            (Some(newest), None) => newest,
            (None, before) => before.cloned().unwrap_or_default(),
        }
    }

    /// Decides what comes after the end of a run, and says so. `ran_for` is how long its guest ran, if it got so far.
    pub(super) async fn follow(&mut self, end: RunOutcome, ran_for: Option<Duration>, stamp: Stamp) {
        let now = Instant::now();
        self.record_end(end.to_record(ran_for)).await;
        let end = end.timed(self.info.borrow().timings);
        match self.history.after(end, ran_for.unwrap_or_default(), self.restart, now, Jitter::draw()) {
            Next::StayOff => {
                self.state = RunState::PoweredOff { stamp };
                self.keep_under(stamp, |record| record.powered_off = true).await;
                self.show_failures();
                self.publish(VmStatus::Stopped);
            }
            Next::StayFailed(reason) => {
                self.state = RunState::Failed { stamp };
                // What failed for good is tried again by another worker, which may be able to; what may not be restarted is not.
                if self.restart == RestartPolicy::Never {
                    let stays_failed = Some(Box::new(reason.clone()));
                    self.keep_under(stamp, |record| record.stays_failed = stays_failed).await;
                }
                self.publish_failure(&reason, VmStatus::Failed(reason.clone()));
            }
            Next::Restart { after, because } => {
                self.state = RunState::Waiting { stamp, until: now + after };
                let next_start_at = Some(Timestamp::now().after(after));
                self.info.send_modify(|info| {
                    info.restarts = info.restarts.saturating_add(1);
                    info.next_start_at = next_start_at;
                });
                match because {
                    // Both are published: whoever waits for a verdict on this start sees it, and after it what follows.
                    Some(reason) => self.publish_failure(&reason, VmStatus::Restarting),
                    None => self.publish(VmStatus::Restarting),
                }
            }
        }
    }

    /// Changes the record, unless the run that ended under `stamp` is of an older target: a newer one is acknowledged by itself.
    async fn keep_under(&mut self, stamp: Stamp, change: impl FnOnce(&mut VmRecord)) {
        let target = self.target.borrow().clone();
        if matches!(target.goal, Goal::Be(_)) && target.stamp == stamp {
            self.keep(&target, change).await;
        }
    }

    /// When the machine has been there for long enough for its earlier failures to be forgotten, where there are any.
    pub(super) fn healthy_at(&self) -> Option<Instant> {
        match &self.state {
            RunState::Up { machine, .. } if self.history.failures_in_a_row() > 0 => {
                Some(machine.healthy_at())
            }
            RunState::Up { .. }
            | RunState::Off
            | RunState::PoweredOff { .. }
            | RunState::Failed { .. }
            | RunState::Waiting { .. } => None,
        }
    }

    /// Tells how many failures there were in a row.
    pub(super) fn show_failures(&self) {
        let count = self.history.failures_in_a_row();
        self.info.send_if_modified(|info| std::mem::replace(&mut info.failures_in_a_row, count) != count);
    }

    /// Forgets the failures of a machine that has been there for long enough.
    pub(super) fn note_health(&mut self) {
        if self.healthy_at().is_some_and(|at| at <= Instant::now()) {
            self.history.note_healthy();
            self.show_failures();
        }
    }

    /// Tells, beside the status, what on this host keeps the VM from being what it should. Whether that is news.
    pub(super) fn tell_host_trouble(&self, problem: &str) -> bool {
        let is_told = |told: &FailureReason| told.message == problem;
        let is_news = !self.info.borrow().last_failure.as_ref().is_some_and(is_told);
        if is_news {
            let reason = plain(FailureKind::Host, problem.to_owned());
            self.info.send_modify(|info| info.last_failure = Some(reason));
        }
        is_news
    }

    pub(super) fn publish_failure(&self, reason: &FailureReason, status: VmStatus) {
        let (class, hint) = (reason.class.map(tracing::field::display), reason.hint.as_deref());
        warn!(vm_id = %self.id, phase = status.phase_name(), class, hint, %reason, "failed");
        let failures_in_a_row = self.history.failures_in_a_row();
        self.info.send_modify(|info| {
            info.failures_in_a_row = failures_in_a_row;
            info.last_failure = Some(reason.clone());
            info.failures = info.failures.saturating_add(1);
            info.status = status;
        });
    }
}

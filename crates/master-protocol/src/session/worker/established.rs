//! A worker's session once it is welcome: reports, assignments, heartbeats.

use std::time::{Duration, Instant};

use vm_model::Lineage;

use super::{AssignmentAnswer, AssignmentOffer, kind};
use crate::session::EndReason;
use crate::session::liveness::Liveness;
use crate::wire::Text;
use crate::wire::v1::{
    Accepted, Assignment, Epoch, MasterMessage, Ping, Pong, RefusalCode, Refused, WorkerMessage,
};
use crate::worker_state::{Reporter, WorkerState};

/// Changes that come closer together than this share a report.
const REPORT_GAP: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Established {
    lineage: Lineage,
    pub(super) liveness: Liveness,
    reporter: Reporter,
    /// Whether there is more to report than measurements.
    report_due: bool,
    reported_at: Option<Instant>,
    /// The newest assignment that nobody was offered yet.
    waiting: Option<Assignment>,
    /// The epoch and generation of the offer that is being decided about.
    offered: Option<(Epoch, u64)>,
    answer: Option<WorkerMessage>,
}

impl Established {
    pub(super) fn new(lineage: Lineage, interval: Duration, now: Instant) -> Self {
        Self {
            lineage,
            liveness: Liveness::new(interval, now),
            reporter: Reporter::default(),
            report_due: true,
            reported_at: None,
            waiting: None,
            offered: None,
            answer: None,
        }
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The worker's state is another one now.
    pub(super) fn state_changed(&mut self, newest: &WorkerState) {
        self.report_due = self.reporter.is_due(newest);
    }

    /// When there is something to do although nothing happened.
    pub(super) fn deadline(&self) -> Instant {
        let deadline = self.liveness.deadline();
        // While something is being sent, nothing else can be.
        if self.liveness.is_sending() { deadline } else { deadline.min(self.report_at()) }
    }

    pub(super) fn receive(&mut self, message: Option<MasterMessage>) -> Result<(), EndReason> {
        match message {
            Some(MasterMessage::Assignment(assignment)) => {
                self.reporter.observe(assignment.generation);
                self.report_due = true;
                // One that was overtaken before anybody looked at it is not answered.
                self.waiting = Some(assignment);
            }
            Some(MasterMessage::ReportRequest(_)) => {
                self.reporter.request_full();
                self.report_due = true;
            }
            Some(MasterMessage::Ping(ping)) => self.liveness.asked(ping.nonce),
            Some(MasterMessage::Pong(_)) | None => {}
            Some(other @ (MasterMessage::Welcome(_) | MasterMessage::Goodbye(_))) => {
                return Err(EndReason::OutOfOrder {
                    kind: kind(&other),
                    expected: "an \"assignment\" or the like",
                });
            }
        }
        Ok(())
    }

    /// The newest assignment, once the one before is decided about and its answer sent.
    pub(super) fn next_offer(&mut self) -> Option<AssignmentOffer> {
        if self.offered.is_some() || self.answer.is_some() {
            return None;
        }
        let assignment = self.waiting.take()?;
        let (epoch, generation) = (assignment.epoch.clone(), assignment.generation);
        let (code, text) = if epoch.as_str() != self.lineage.epoch() {
            let text =
                format!("the epoch is {epoch:?}; that of the \"welcome\" was {:?}", self.lineage.epoch());
            (RefusalCode::WrongEpoch, text)
        } else {
            match assignment.read() {
                Ok(set) => {
                    let lineage = self.lineage.clone();
                    self.offered = Some((epoch, generation));
                    return Some(AssignmentOffer { lineage, set });
                }
                Err(problem) => (RefusalCode::Malformed, problem.to_string()),
            }
        };
        let text = Text::cut(text);
        self.answer = Some(WorkerMessage::Refused(Refused { epoch, generation, code, text }));
        None
    }

    pub(super) fn take_answer(&mut self, answer: AssignmentAnswer) {
        // Without an offer there is nothing to answer.
        let Some((epoch, generation)) = self.offered.take() else { return };
        self.report_due = true;
        self.answer = Some(match answer {
            AssignmentAnswer::Accepted(accepted) => {
                WorkerMessage::Accepted(Accepted { epoch, generation, ..accepted })
            }
            AssignmentAnswer::Refused(refused) => {
                WorkerMessage::Refused(Refused { epoch, generation, ..refused })
            }
        });
    }

    /// The most urgent message; `None` where none is due.
    pub(super) fn next_message(&mut self, newest: &WorkerState, now: Instant) -> Option<WorkerMessage> {
        if let Some(nonce) = self.liveness.take_pong() {
            return Some(WorkerMessage::Pong(Pong { nonce }));
        }
        if let Some(answer) = self.answer.take() {
            return Some(answer);
        }
        if now >= self.report_at() {
            let report = self.reporter.next(newest);
            self.report_due = report.more;
            self.reported_at = Some(now);
            return Some(WorkerMessage::Report(Box::new(report)));
        }
        self.liveness.take_ping(now).map(|nonce| WorkerMessage::Ping(Ping { nonce }))
    }

    /// When the next report is to be sent: soon after a change, otherwise at the interval.
    fn report_at(&self) -> Instant {
        let Some(last) = self.reported_at else { return self.liveness.started_at() };
        last + if self.report_due { REPORT_GAP } else { self.liveness.interval() }
    }
}

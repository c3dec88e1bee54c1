//! The worker's end of a connection.

use std::time::{Duration, Instant};

use vm_model::AssignmentSet;

use super::EndReason;
use super::ending::{Closing, ClosingStep};
use super::liveness::Liveness;
use crate::wire::Text;
use crate::wire::v1::{
    Accepted, Assignment, Epoch, Hello, MasterMessage, Name, Ping, Pong, RefusalCode, Refused, VERSION,
    Welcome, WorkerMessage,
};
use crate::worker_state::{Reporter, WorkerState};

/// How long the master may take for its `welcome`.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Changes that come closer together than this share a report.
const REPORT_GAP: Duration = Duration::from_millis(50);

/// An assignment for whoever decides about it. A session makes one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentOffer {
    /// The master it comes from.
    pub master: Name,
    /// The lineage of its number.
    pub epoch: Epoch,
    /// What should run. It has a generation.
    pub set: AssignmentSet,
}

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignmentAnswer {
    /// It is on stable storage, and in force unless it is held.
    Accepted(Accepted),
    /// It is not in force.
    Refused(Refused),
}

/// What a worker's session wants done.
#[derive(Debug)]
pub enum WorkerOutput {
    /// This is to be sent.
    Send(WorkerMessage),
    /// Somebody is to decide about this, and [`WorkerSession::answer`] is to be called with the verdict.
    Offer(Box<AssignmentOffer>),
    /// The connection is to be closed. Nothing comes after.
    End(EndReason),
}

/// The worker's end, from `hello` to the last message.
#[derive(Debug)]
pub struct WorkerSession {
    stage: Stage,
    closing: Closing,
}

#[derive(Debug)]
enum Stage {
    Greeting { hello: Option<Box<Hello>>, until: Instant },
    Established(Box<Established>),
}

#[derive(Debug)]
struct Established {
    welcome: Welcome,
    liveness: Liveness,
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

impl WorkerSession {
    /// The session of a connection that was just made, whose first message is `hello`.
    pub fn new(hello: Hello, now: Instant) -> Self {
        let stage = Stage::Greeting { hello: Some(Box::new(hello)), until: now + WELCOME_WITHIN };
        Self { stage, closing: Closing::default() }
    }

    /// What the master said of itself; absent until it did.
    pub fn welcome(&self) -> Option<&Welcome> {
        match &self.stage {
            Stage::Greeting { .. } => None,
            Stage::Established(established) => Some(&established.welcome),
        }
    }

    /// Takes a message, or `None` for one of an unknown type.
    pub fn receive(&mut self, message: Option<MasterMessage>, now: Instant) {
        match (&mut self.stage, message) {
            (_, Some(MasterMessage::Goodbye(goodbye))) => self.end(goodbye.into()),
            (Stage::Greeting { .. }, Some(MasterMessage::Welcome(welcome))) => self.begin(welcome, now),
            (Stage::Greeting { .. }, Some(other)) => {
                self.end(EndReason::OutOfOrder { kind: kind(&other), expected: "\"welcome\"" });
            }
            (Stage::Greeting { .. }, None) => {}
            (Stage::Established(established), message) => {
                established.liveness.heard(now);
                if let Err(reason) = established.receive(message) {
                    self.end(reason);
                }
            }
        }
    }

    fn begin(&mut self, welcome: Welcome, now: Instant) {
        if welcome.version != VERSION {
            let theirs = welcome.version.to_string();
            return self.end(EndReason::NoCommonVersion { theirs, ours: VERSION });
        }
        if !Welcome::HEARTBEAT_MS.contains(&welcome.heartbeat_ms) {
            return self.end(EndReason::Unacceptable {
                field: "heartbeat_ms of \"welcome\"",
                value: welcome.heartbeat_ms,
                accepted: "50 to 600000",
            });
        }
        let interval = Duration::from_millis(welcome.heartbeat_ms);
        self.stage = Stage::Established(Box::new(Established {
            welcome,
            liveness: Liveness::new(interval, now),
            reporter: Reporter::default(),
            report_due: true,
            reported_at: None,
            waiting: None,
            offered: None,
            answer: None,
        }));
    }

    /// Whether the session has ended but for its last message. What comes in is of no interest any more.
    pub fn is_ending(&self) -> bool {
        self.closing.is_begun()
    }

    /// Ends the session for `reason`, unless it has ended. The first reason counts.
    pub fn end(&mut self, reason: EndReason) {
        self.closing.begin(reason);
    }

    /// Says that the worker's state is another one now.
    pub fn state_changed(&mut self, newest: &WorkerState) {
        if let Stage::Established(established) = &mut self.stage {
            established.report_due = established.reporter.is_due(newest);
        }
    }

    /// The verdict about the newest offer.
    pub fn answer(&mut self, answer: AssignmentAnswer) {
        if let Stage::Established(established) = &mut self.stage {
            established.take_answer(answer);
        }
    }

    /// The message of the newest [`WorkerOutput::Send`] is with the host.
    pub fn sent(&mut self) {
        if let Stage::Established(established) = &mut self.stage {
            established.liveness.sent();
        }
    }

    /// What is to be done at `now`. Call it until it returns `None`, and again after every other call and at
    /// [`WorkerSession::deadline`]. Where `can_send` is false it asks for nothing to be sent.
    pub fn poll(&mut self, newest: &WorkerState, now: Instant, can_send: bool) -> Option<WorkerOutput> {
        self.look_at_clock(now);
        match self.closing.step(now, can_send) {
            Some(ClosingStep::Say(goodbye)) => {
                return Some(WorkerOutput::Send(WorkerMessage::Goodbye(goodbye)));
            }
            Some(ClosingStep::Wait) => return None,
            Some(ClosingStep::End(reason)) => return Some(WorkerOutput::End(reason)),
            None => {}
        }
        match &mut self.stage {
            Stage::Greeting { hello, .. } if can_send => {
                hello.take().map(|hello| WorkerOutput::Send(WorkerMessage::Hello(hello)))
            }
            Stage::Greeting { .. } => None,
            Stage::Established(established) => {
                if let Some(offer) = established.next_offer() {
                    return Some(WorkerOutput::Offer(Box::new(offer)));
                }
                let message = can_send.then(|| established.next_message(newest, now)).flatten()?;
                established.liveness.sending(now);
                Some(WorkerOutput::Send(message))
            }
        }
    }

    fn look_at_clock(&mut self, now: Instant) {
        let lost = match &self.stage {
            Stage::Greeting { until, .. } => (now >= *until)
                .then_some(EndReason::NoGreeting { expected: "welcome", within: WELCOME_WITHIN }),
            Stage::Established(established) => established.liveness.lost(now),
        };
        if let Some(reason) = lost {
            self.end(reason);
        }
    }

    /// When [`WorkerSession::poll`] has something to do although nothing happened.
    pub fn deadline(&self) -> Instant {
        if let Some(deadline) = self.closing.deadline() {
            return deadline;
        }
        match &self.stage {
            Stage::Greeting { until, .. } => *until,
            // While something is being sent, nothing else can be.
            Stage::Established(established) if established.liveness.is_sending() => {
                established.liveness.deadline()
            }
            Stage::Established(established) => established.liveness.deadline().min(established.report_at()),
        }
    }
}

impl Established {
    fn receive(&mut self, message: Option<MasterMessage>) -> Result<(), EndReason> {
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
    fn next_offer(&mut self) -> Option<AssignmentOffer> {
        if self.offered.is_some() || self.answer.is_some() {
            return None;
        }
        let assignment = self.waiting.take()?;
        let (epoch, generation) = (assignment.epoch.clone(), assignment.generation);
        let refused = if epoch != self.welcome.epoch {
            let text =
                format!("the epoch is {epoch:?}; that of the \"welcome\" was {:?}", self.welcome.epoch);
            (RefusalCode::WrongEpoch, text)
        } else {
            match assignment.read() {
                Ok(set) => {
                    let master = self.welcome.master.clone();
                    self.offered = Some((epoch.clone(), generation));
                    return Some(AssignmentOffer { master, epoch, set });
                }
                Err(problem) => (RefusalCode::Malformed, problem.to_string()),
            }
        };
        let (code, text) = (refused.0, Text::cut(refused.1));
        self.answer = Some(WorkerMessage::Refused(Refused { epoch, generation, code, text }));
        None
    }

    fn take_answer(&mut self, answer: AssignmentAnswer) {
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
    fn next_message(&mut self, newest: &WorkerState, now: Instant) -> Option<WorkerMessage> {
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

fn kind(message: &MasterMessage) -> &'static str {
    match message {
        MasterMessage::Welcome(_) => "welcome",
        MasterMessage::Assignment(_) => "assignment",
        MasterMessage::ReportRequest(_) => "report_request",
        MasterMessage::Ping(_) => "ping",
        MasterMessage::Pong(_) => "pong",
        MasterMessage::Goodbye(_) => "goodbye",
    }
}

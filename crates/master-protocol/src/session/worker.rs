//! The worker's end of a connection.

mod established;

use std::time::{Duration, Instant};

use vm_model::{AssignmentSet, Lineage};

use self::established::Established;
use super::EndReason;
use super::ending::{Closing, ClosingStep};
use crate::wire::v1::{Accepted, Hello, MasterMessage, Refused, VERSION, Welcome, WorkerMessage};
use crate::worker_state::WorkerState;

/// How long the master may take for its `welcome`.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// An assignment for whoever decides about it. A session makes one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentOffer {
    /// The master it comes from, and the counting that its number belongs to.
    pub lineage: Lineage,
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

impl WorkerSession {
    /// The session of a connection that was just made, whose first message is `hello`.
    pub fn new(hello: Hello, now: Instant) -> Self {
        let stage = Stage::Greeting { hello: Some(Box::new(hello)), until: now + WELCOME_WITHIN };
        Self { stage, closing: Closing::default() }
    }

    /// The master, and its counting of generations; absent until it has said `welcome`.
    pub fn lineage(&self) -> Option<&Lineage> {
        match &self.stage {
            Stage::Greeting { .. } => None,
            Stage::Established(established) => Some(established.lineage()),
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
        match Lineage::new(welcome.master.into_string(), welcome.epoch.into_string()) {
            Ok(lineage) => {
                self.stage = Stage::Established(Box::new(Established::new(lineage, interval, now)));
            }
            Err(problem) => self.end(problem.into()),
        }
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
            established.state_changed(newest);
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
            Stage::Established(established) => established.deadline(),
        }
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

//! The master's end of a connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_model::Lineage;

use super::EndReason;
use super::ending::{Closing, ClosingStep};
use super::liveness::Liveness;
use crate::wire::v1::{
    Accepted, Assignment, Hello, MasterMessage, Ping, Pong, Refused, Report, ReportRequest, VERSION, Welcome,
    WorkerMessage,
};
use crate::wire::{Text, WorkerId};

/// How long a worker may take for its `hello`.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// What a master tells every worker at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterTerms {
    /// Its name, and the counting of its generations.
    pub lineage: Lineage,
    /// How often either end sends something; from 50 ms to 10 minutes.
    pub heartbeat: Duration,
}

/// What a worker said that is for the master to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterEvent {
    /// It is there. The first event.
    Hello(Box<Hello>),
    /// An assignment is on its stable storage.
    Accepted(Accepted),
    /// An assignment is not in force.
    Refused(Refused),
    /// How it is.
    Report(Box<Report>),
}

/// What a master's session wants done.
#[derive(Debug)]
pub enum MasterOutput {
    /// This is to be sent.
    Send(MasterMessage),
    /// The connection is to be closed. Nothing comes after.
    End(EndReason),
}

/// The master's end, from `hello` to the last message.
#[derive(Debug)]
pub struct MasterSession {
    terms: MasterTerms,
    /// The name in the worker's certificate; absent where the connection has none.
    certified: Option<WorkerId>,
    stage: Stage,
    closing: Closing,
}

#[derive(Debug)]
enum Stage {
    Greeting { until: Instant },
    Established(Established),
}

#[derive(Debug)]
struct Established {
    liveness: Liveness,
    welcome: Option<Welcome>,
    sent: Option<Arc<Assignment>>,
    report_wanted: bool,
}

impl MasterSession {
    /// The session of a connection that was just accepted, from the worker that its certificate names.
    pub fn new(terms: MasterTerms, certified: Option<WorkerId>, now: Instant) -> Self {
        let stage = Stage::Greeting { until: now + HELLO_WITHIN };
        Self { terms, certified, stage, closing: Closing::default() }
    }

    /// Takes a message, or `None` for one of an unknown type.
    pub fn receive(&mut self, message: Option<WorkerMessage>, now: Instant) -> Option<MasterEvent> {
        match (&mut self.stage, message) {
            (_, Some(WorkerMessage::Goodbye(goodbye))) => self.end(goodbye.into()),
            (Stage::Greeting { .. }, Some(WorkerMessage::Hello(hello))) => return self.begin(hello, now),
            (Stage::Greeting { .. }, Some(other)) => {
                self.end(EndReason::OutOfOrder { kind: kind(&other), expected: "\"hello\"" });
            }
            (Stage::Greeting { .. }, None) => {}
            (Stage::Established(established), message) => {
                established.liveness.heard(now);
                match message? {
                    WorkerMessage::Accepted(accepted) => return Some(MasterEvent::Accepted(accepted)),
                    WorkerMessage::Refused(refused) => return Some(MasterEvent::Refused(refused)),
                    WorkerMessage::Report(report) => return Some(MasterEvent::Report(report)),
                    WorkerMessage::Ping(ping) => established.liveness.asked(ping.nonce),
                    WorkerMessage::Pong(_) => {}
                    other @ (WorkerMessage::Hello(_) | WorkerMessage::Goodbye(_)) => {
                        self.end(EndReason::OutOfOrder {
                            kind: kind(&other),
                            expected: "a \"report\" or the like",
                        });
                    }
                }
            }
        }
        None
    }

    fn begin(&mut self, hello: Box<Hello>, now: Instant) -> Option<MasterEvent> {
        if let Some(certified) = &self.certified
            && *certified != hello.worker
        {
            let (claimed, certified) = (hello.worker.to_string(), certified.to_string());
            self.end(EndReason::WrongIdentity { claimed, certified });
            return None;
        }
        if !hello.versions.contains(&VERSION) {
            let theirs: Vec<String> = hello.versions.iter().map(u32::to_string).collect();
            self.end(EndReason::NoCommonVersion { theirs: theirs.join(", "), ours: VERSION });
            return None;
        }
        let heartbeat_ms = u64::try_from(self.terms.heartbeat.as_millis()).unwrap_or(u64::MAX);
        let heartbeat_ms = heartbeat_ms.clamp(*Welcome::HEARTBEAT_MS.start(), *Welcome::HEARTBEAT_MS.end());
        let lineage = &self.terms.lineage;
        let (master, epoch) = (Text::cut(lineage.master()), Text::cut(lineage.epoch()));
        self.stage = Stage::Established(Established {
            liveness: Liveness::new(Duration::from_millis(heartbeat_ms), now),
            welcome: Some(Welcome { version: VERSION, heartbeat_ms, master, epoch }),
            sent: None,
            report_wanted: false,
        });
        Some(MasterEvent::Hello(hello))
    }

    /// Whether the session has ended but for its last message. What comes in is of no interest any more.
    pub fn is_ending(&self) -> bool {
        self.closing.is_begun()
    }

    /// Ends the session for `reason`, unless it has ended. The first reason counts.
    pub fn end(&mut self, reason: EndReason) {
        self.closing.begin(reason);
    }

    /// Asks the worker for a full report.
    pub fn request_report(&mut self) {
        if let Stage::Established(established) = &mut self.stage {
            established.report_wanted = true;
        }
    }

    /// The message of the newest [`MasterOutput::Send`] is with the host.
    pub fn sent(&mut self) {
        if let Stage::Established(established) = &mut self.stage {
            established.liveness.sent();
        }
    }

    /// What is to be done at `now`, where `desired` is the worker's newest assignment. Call it until it returns `None`,
    /// and again after every other call and at [`MasterSession::deadline`]. Where `can_send` is false it asks for
    /// nothing to be sent.
    pub fn poll(
        &mut self,
        desired: Option<&Arc<Assignment>>,
        now: Instant,
        can_send: bool,
    ) -> Option<MasterOutput> {
        self.look_at_clock(now);
        match self.closing.step(now, can_send) {
            Some(ClosingStep::Say(goodbye)) => {
                return Some(MasterOutput::Send(MasterMessage::Goodbye(goodbye)));
            }
            Some(ClosingStep::Wait) => return None,
            Some(ClosingStep::End(reason)) => return Some(MasterOutput::End(reason)),
            None => {}
        }
        match &mut self.stage {
            Stage::Established(established) if can_send => {
                let message = established.next_message(desired, now)?;
                established.liveness.sending(now);
                Some(MasterOutput::Send(message))
            }
            Stage::Greeting { .. } | Stage::Established(_) => None,
        }
    }

    fn look_at_clock(&mut self, now: Instant) {
        let lost = match &self.stage {
            Stage::Greeting { until } => {
                (now >= *until).then_some(EndReason::NoGreeting { expected: "hello", within: HELLO_WITHIN })
            }
            Stage::Established(established) => established.liveness.lost(now),
        };
        if let Some(reason) = lost {
            self.end(reason);
        }
    }

    /// When [`MasterSession::poll`] has something to do although nothing happened.
    pub fn deadline(&self) -> Instant {
        if let Some(deadline) = self.closing.deadline() {
            return deadline;
        }
        match &self.stage {
            Stage::Greeting { until } => *until,
            Stage::Established(established) => established.liveness.deadline(),
        }
    }
}

impl Established {
    /// The most urgent message; `None` where none is due.
    fn next_message(&mut self, desired: Option<&Arc<Assignment>>, now: Instant) -> Option<MasterMessage> {
        if let Some(welcome) = self.welcome.take() {
            return Some(MasterMessage::Welcome(welcome));
        }
        if let Some(nonce) = self.liveness.take_pong() {
            return Some(MasterMessage::Pong(Pong { nonce }));
        }
        if std::mem::take(&mut self.report_wanted) {
            return Some(MasterMessage::ReportRequest(ReportRequest {}));
        }
        if let Some(desired) = desired
            && self.sent.as_ref() != Some(desired)
        {
            self.sent = Some(Arc::clone(desired));
            return Some(MasterMessage::Assignment(Assignment::clone(desired)));
        }
        self.liveness.take_ping(now).map(|nonce| MasterMessage::Ping(Ping { nonce }))
    }
}

fn kind(message: &WorkerMessage) -> &'static str {
    match message {
        WorkerMessage::Hello(_) => "hello",
        WorkerMessage::Accepted(_) => "accepted",
        WorkerMessage::Refused(_) => "refused",
        WorkerMessage::Report(_) => "report",
        WorkerMessage::Ping(_) => "ping",
        WorkerMessage::Pong(_) => "pong",
        WorkerMessage::Goodbye(_) => "goodbye",
    }
}

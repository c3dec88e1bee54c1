//! The worker's side: dials, talks, and dials again. VMs know nothing of it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};
use vm_model::{Lineage, Timestamp, error_chain};

use super::backoff::{Backoff, BackoffLimits};
use super::dial::{Dialled, WorkerTransport, dial};
use super::stream::{FramedStream, Progress};
use crate::codec::{decode_master_message, encode_frame, encode_report};
use crate::session::{AssignmentAnswer, AssignmentOffer, EndReason, WorkerOutput, WorkerSession};
use crate::tls::{Credentials, refusal_of_ours};
use crate::wire::Text;
use crate::wire::v1::{Hello, RefusalCode, Refused, WorkerMessage};
use crate::worker_state::WorkerState;

/// How long the last message may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that held for so long was a good one.
const STABLE: Duration = Duration::from_secs(10);

/// An assignment and where its verdict goes. Dropping the sender refuses it.
pub type OfferedAssignment = (AssignmentOffer, oneshot::Sender<AssignmentAnswer>);

/// How a worker's link to its master is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkStatus {
    /// A connection is being made.
    #[default]
    Connecting,
    /// The master has said `welcome`.
    Connected {
        /// Its name, and the counting of its generations.
        lineage: Lineage,
        /// Its address.
        address: SocketAddr,
        /// Since when.
        since: Timestamp,
    },
    /// There is no connection, and the next one is made later.
    Waiting {
        /// When.
        until: Timestamp,
        /// What went wrong, in a line.
        problem: String,
    },
    /// The link was told to end.
    Ended,
}

/// A worker's link to its master, from the first dial until it is told to end.
pub struct WorkerLink {
    /// The master: host and port.
    pub master: String,
    /// How it is reached.
    pub transport: WorkerTransport,
    /// How long to wait between dials.
    pub backoff: BackoffLimits,
    /// Decides where in its range a wait lies: [`os_random`](crate::os_random), or a fixed number in tests.
    pub random: fn() -> u64,
    /// What the worker says of itself at first; its newest value at each dial.
    pub hello: watch::Receiver<Hello>,
    /// How the worker and its VMs are. Only the newest value counts.
    pub state: watch::Receiver<Arc<WorkerState>>,
    /// Where assignments go, one at a time.
    pub offers: mpsc::Sender<OfferedAssignment>,
    /// Where the link tells how it is.
    pub status: watch::Sender<LinkStatus>,
    /// Ends a wait between dials: somebody has mended what was wrong.
    pub redial: Arc<Notify>,
}

impl WorkerLink {
    /// Keeps the link until `shutdown` is over.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut backoff = Backoff::new(self.backoff);
        loop {
            self.status.send_replace(LinkStatus::Connecting);
            // Dropping a half-made connection closes it; `converse` sees the shutdown itself.
            let dialled = tokio::select! {
                () = &mut shutdown => break,
                dialled = dial(&self.master, &self.transport) => dialled,
            };
            let problem = match dialled {
                Ok(dialled) => match self.converse(dialled, &mut shutdown, &mut backoff).await {
                    Ok(EndReason::ShuttingDown) => break,
                    Ok(reason) => error_chain(&reason),
                    Err(refusal) => refusal,
                },
                Err(problem) => error_chain(&problem),
            };
            let wait = backoff.next_wait((self.random)());
            warn!(
                master = self.master,
                error = problem,
                "no connection to the master; dialling again in {wait:?}"
            );
            self.status.send_replace(LinkStatus::Waiting { until: Timestamp::now().after(wait), problem });
            // Both arms are cancel-safe.
            tokio::select! {
                () = &mut shutdown => break,
                () = self.redial.notified() => backoff.reset(),
                () = sleep(wait) => {}
            }
        }
        self.status.send_replace(LinkStatus::Ended);
    }

    /// Talks on one connection until it ends. An error is the master's refusal of the worker's certificate, in words.
    async fn converse(
        &mut self,
        dialled: Dialled,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
        backoff: &mut Backoff,
    ) -> Result<EndReason, String> {
        let Dialled { stream, address, credentials } = dialled;
        let session = WorkerSession::new(self.hello.borrow().clone(), Instant::now().into_std());
        let began = Instant::now();
        let mut talk = Talk { stream, session, offer: None, answer: None, is_welcome: false };
        loop {
            let newest = Arc::clone(&self.state.borrow());
            if let Some(reason) = talk.act(&newest) {
                // A master that lets workers in and drops them at once is not dialled without end.
                if talk.is_welcome && began.elapsed() >= STABLE {
                    backoff.reset();
                }
                // The other end may be gone, or take nothing any more.
                let _ = timeout(FAREWELL, talk.stream.finish()).await;
                return Ok(reason);
            }
            if !talk.is_welcome
                && let Some(lineage) = talk.session.lineage()
            {
                talk.is_welcome = true;
                info!(master = lineage.master(), epoch = lineage.epoch(), %address, "connected to the master");
                let lineage = lineage.clone();
                let since = Timestamp::now();
                self.status.send_replace(LinkStatus::Connected { lineage, address, since });
            }
            if let Err(problem) = self.wait(&mut talk, shutdown).await {
                if let Some(refusal) = explain(&problem, credentials.as_deref()) {
                    return Err(refusal);
                }
                talk.session.end(EndReason::Broken(problem.to_string()));
            }
        }
    }

    /// Waits until something happens, and tells the session.
    async fn wait(
        &mut self,
        talk: &mut Talk,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
    ) -> std::io::Result<()> {
        let deadline = Instant::from_std(talk.session.deadline());
        if talk.session.is_ending() {
            return talk.stream.sent_until(deadline).await.map(|_| ());
        }
        let has_offer = talk.offer.is_some();
        // All arms are cancel-safe: what `progress` has read or written is kept in the stream.
        tokio::select! {
            () = shutdown => talk.session.end(EndReason::ShuttingDown),
            progress = talk.stream.progress(true) => talk.take(progress?),
            answer = answer_of(&mut talk.answer) => {
                talk.answer = None;
                talk.session.answer(answer.unwrap_or_else(|_| unanswered()));
            }
            permit = self.offers.reserve(), if has_offer => match (permit, talk.offer.take()) {
                (Ok(permit), Some(offer)) => {
                    let (sender, answer) = oneshot::channel();
                    talk.answer = Some(answer);
                    permit.send((offer, sender));
                }
                (Err(_), _) => talk.session.answer(unanswered()),
                (Ok(_), None) => {}
            },
            changed = self.state.changed() => match changed {
                Ok(()) => talk.session.state_changed(&self.state.borrow_and_update()),
                // Whoever knew the state is gone, and with it the worker.
                Err(_) => talk.session.end(EndReason::ShuttingDown),
            },
            () = sleep_until(deadline) => {}
        }
        Ok(())
    }
}

/// One connection while it lasts.
struct Talk {
    stream: FramedStream,
    session: WorkerSession,
    /// An offer that nobody has taken yet.
    offer: Option<AssignmentOffer>,
    /// Where the verdict about the newest offer comes from.
    answer: Option<oneshot::Receiver<AssignmentAnswer>>,
    is_welcome: bool,
}

impl Talk {
    /// Does what the session wants; returns why the connection is to be closed, when it is.
    fn act(&mut self, newest: &WorkerState) -> Option<EndReason> {
        loop {
            let now = Instant::now().into_std();
            match self.session.poll(newest, now, self.stream.can_send())? {
                WorkerOutput::Offer(offer) => self.offer = Some(*offer),
                WorkerOutput::End(reason) => return Some(reason),
                WorkerOutput::Send(message) => {
                    let frames = match message {
                        WorkerMessage::Report(report) => encode_report(*report).map(|frames| frames.concat()),
                        other => encode_frame(&other),
                    };
                    match frames {
                        Ok(frames) => self.stream.send(frames),
                        Err(problem) => self.session.end(EndReason::Broken(error_chain(&problem))),
                    }
                }
            }
        }
    }

    /// Tells the session what has happened on the stream.
    fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Sending => {}
            Progress::Sent => self.session.sent(),
            Progress::Ended => self.session.end(EndReason::Closed),
            Progress::Received => {
                if let Err(reason) = self.take_frames() {
                    self.session.end(reason);
                }
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), EndReason> {
        let now = Instant::now().into_std();
        while let Some(frame) = self.stream.next_frame()? {
            self.session.receive(decode_master_message(frame)?, now);
        }
        Ok(())
    }
}

/// The verdict; never where none is awaited.
async fn answer_of(
    answer: &mut Option<oneshot::Receiver<AssignmentAnswer>>,
) -> Result<AssignmentAnswer, oneshot::error::RecvError> {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

/// What is said where nobody decides any more. The session fills in what it is about.
fn unanswered() -> AssignmentAnswer {
    let text = Text::cut("nobody decides about assignments any more");
    let (epoch, code) = (Text::default(), RefusalCode::ShuttingDown);
    AssignmentAnswer::Refused(Refused { epoch, generation: 0, code, text })
}

fn explain(problem: &std::io::Error, credentials: Option<&Credentials>) -> Option<String> {
    refusal_of_ours(problem, credentials?).map(|refusal| error_chain(&refusal))
}

//! One worker's connection at the master, from the handshake to the last message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use vm_model::{Timestamp, error_chain};

use super::budget::ReadBudget;
use super::listener::{Directory, MasterTransport, WorkerEvent, WorkerNews};
use super::places::{Greeting, NoWorkerPlace, Standing, WorkerOrigin, WorkerPlace};
use super::refusal_log::RefusalLog;
use super::stream::{FramedStream, Progress};
use crate::codec::{decode_worker_message, encode_frame};
use crate::session::{EndReason, MasterEvent, MasterOutput, MasterSession, MasterTerms};
use crate::tls::{self, TlsError};
use crate::wire::WorkerId;
use crate::wire::v1::Assignment;

/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the last message may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all connections of a master share.
pub(super) struct Shared {
    pub(super) transport: MasterTransport,
    pub(super) terms: MasterTerms,
    pub(super) directory: watch::Receiver<Arc<Directory>>,
    pub(super) events: mpsc::Sender<WorkerEvent>,
    pub(super) refusals: RefusalLog,
    /// Its sender is gone when the master ends.
    pub(super) ended: watch::Receiver<()>,
}

/// Why a connection led to no conversation.
#[derive(Debug, Error)]
pub(super) enum Refused {
    #[error("no TLS connection")]
    Tls(#[source] TlsError),
    #[error("the TLS handshake took longer than {HANDSHAKE:?}")]
    Late,
    #[error("the connection is not usable")]
    Broken(#[source] std::io::Error),
    #[error("it did not get as far as a worker's name")]
    NoWorker(#[source] EndReason),
}

/// Talks with whoever has dialled until either has had enough.
pub(super) async fn converse(
    stream: TcpStream,
    address: SocketAddr,
    greeting: Greeting,
    shared: Arc<Shared>,
) -> Result<(), Refused> {
    stream.set_nodelay(true).map_err(Refused::Broken)?;
    let secured = timeout(HANDSHAKE, secure(stream, &shared.transport)).await;
    let (stream, certified) = secured.map_err(|_| Refused::Late)??;
    let is_certified = certified.is_some();
    let session = MasterSession::new(shared.terms.clone(), certified, Instant::now().into_std());
    let now = Instant::now().into_std();
    let mut conversation = Conversation {
        stream,
        session,
        stage: Stage::Greeting(Some(greeting)),
        address,
        is_certified,
        budget: ReadBudget::new(now),
        directory: shared.directory.clone(),
        events: shared.events.clone(),
    };
    let reason = conversation.run(shared.ended.clone()).await;
    // The other end may be gone, or take nothing any more.
    let _ = timeout(FAREWELL, conversation.stream.finish()).await;
    match conversation.stage {
        Stage::Greeting(_) => Err(Refused::NoWorker(reason)),
        Stage::Worker { .. } => {
            conversation.tell(WorkerNews::Left(reason)).await;
            Ok(())
        }
    }
}

async fn secure(
    stream: TcpStream,
    transport: &MasterTransport,
) -> Result<(FramedStream, Option<WorkerId>), Refused> {
    match transport {
        MasterTransport::Plain(_) => Ok((FramedStream::new(stream), None)),
        MasterTransport::Tls(store) => {
            let store = Arc::clone(store);
            // Reading files may take as long as their disk lets it.
            let read = spawn_blocking(move || store.current()).await;
            let credentials = read.map_err(|lost| Refused::Broken(lost.into()))?.map_err(Refused::Tls)?;
            // The worker sees by itself that the certificate has expired, and can then say so.
            if let Err(problem) = credentials.check_dates(Timestamp::now()) {
                tracing::warn!(error = error_chain(&problem), "workers will not accept this certificate");
            }
            let (stream, worker) = tls::accept(stream, &credentials).await.map_err(Refused::Tls)?;
            Ok((FramedStream::new(stream), Some(worker)))
        }
    }
}

/// One connection while it lasts.
struct Conversation {
    stream: FramedStream,
    session: MasterSession,
    stage: Stage,
    address: SocketAddr,
    /// Whether a certificate says who the worker is.
    is_certified: bool,
    budget: ReadBudget,
    directory: watch::Receiver<Arc<Directory>>,
    events: mpsc::Sender<WorkerEvent>,
}

/// Whose connection it is. The place of one that has not said so is taken out when it does.
enum Stage {
    Greeting(Option<Greeting>),
    Worker { worker: WorkerId, place: WorkerPlace },
}

impl Conversation {
    /// Talks until the session ends, and says why it did.
    async fn run(&mut self, mut ended: watch::Receiver<()>) -> EndReason {
        loop {
            let desired = self.desired();
            if let Some(reason) = self.act(desired.as_ref()) {
                return reason;
            }
            let now = Instant::now().into_std();
            let deadline = self.session.deadline();
            if self.session.is_ending() {
                // Whether it was sent or not, the session knows what follows.
                let _ = self.stream.sent_until(Instant::from_std(deadline)).await;
                continue;
            }
            let paused = self.budget.paused_until(now);
            let deadline = Instant::from_std(paused.map_or(deadline, |resume_at| deadline.min(resume_at)));
            // All arms are cancel-safe: what `progress` has read or written is kept in the stream.
            tokio::select! {
                progress = self.stream.progress(paused.is_none()) => match progress {
                    Ok(progress) => self.take(progress).await,
                    Err(problem) => self.session.end(EndReason::Broken(problem.to_string())),
                },
                () = replaced(&mut self.stage) => self.session.end(EndReason::Replaced),
                // Nothing is ever sent: it returns when the sender is gone.
                _ = ended.changed() => self.session.end(EndReason::ShuttingDown),
                changed = self.directory.changed() => if changed.is_err() {
                    self.session.end(EndReason::ShuttingDown);
                },
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// The worker's newest assignment.
    fn desired(&mut self) -> Option<Arc<Assignment>> {
        let directory = self.directory.borrow_and_update();
        match &self.stage {
            Stage::Greeting(_) => None,
            Stage::Worker { worker, .. } => directory.get(worker).cloned(),
        }
    }

    /// Does what the session wants; returns why the connection is to be closed, when it is.
    fn act(&mut self, desired: Option<&Arc<Assignment>>) -> Option<EndReason> {
        loop {
            let now = Instant::now().into_std();
            match self.session.poll(desired, now, self.stream.can_send())? {
                MasterOutput::End(reason) => return Some(reason),
                MasterOutput::Send(message) => match encode_frame(&message) {
                    Ok(frame) => self.stream.send(frame),
                    Err(problem) => self.session.end(EndReason::Broken(error_chain(&problem))),
                },
            }
        }
    }

    /// Tells the session what has happened on the stream.
    async fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Sending => {}
            Progress::Sent => self.session.sent(),
            Progress::Ended => self.session.end(EndReason::Closed),
            Progress::Received => {
                if let Err(reason) = self.take_frames().await {
                    self.session.end(reason);
                }
            }
        }
    }

    async fn take_frames(&mut self) -> Result<(), EndReason> {
        let now = Instant::now().into_std();
        loop {
            let Some(frame) = self.stream.next_frame()? else { return Ok(()) };
            self.budget.pay(frame.len(), now);
            let message = decode_worker_message(frame)?;
            if let Some(event) = self.session.receive(message, now) {
                match self.name_worker(&event) {
                    None => {}
                    Some((worker, NoWorkerPlace::Elsewhere(other))) => {
                        return Err(self.tell_of_elsewhere(worker, other).await);
                    }
                    Some((worker, NoWorkerPlace::TooManyStrangers)) => {
                        return Err(EndReason::TooManyStrangers { worker: worker.to_string() });
                    }
                }
                self.tell(WorkerNews::Said(event)).await;
            }
        }
    }

    /// Takes the worker's place once it has said who it is; returns its name and why it has to go, where it has.
    fn name_worker(&mut self, event: &MasterEvent) -> Option<(WorkerId, NoWorkerPlace)> {
        let (MasterEvent::Hello(hello), Stage::Greeting(greeting)) = (event, &mut self.stage) else {
            return None;
        };
        let greeting = greeting.take()?;
        let worker = hello.worker.clone();
        let host = hello.host.as_ref().map(ToString::to_string);
        let is_known = self.is_certified || self.directory.borrow().contains_key(&worker);
        let standing = if is_known { Standing::Known } else { Standing::Stranger };
        match greeting.become_worker(worker.clone(), WorkerOrigin { address: self.address, host }, standing) {
            Ok(place) => {
                self.stage = Stage::Worker { place, worker };
                None
            }
            Err(reason) => Some((worker, reason)),
        }
    }

    /// Tells that a worker came that is connected from another host; returns why it has to go.
    async fn tell_of_elsewhere(&mut self, worker: WorkerId, other: SocketAddr) -> EndReason {
        let name = worker.to_string();
        let news = WorkerNews::Elsewhere { connected: other };
        let event = WorkerEvent { worker, connection: 0, address: self.address, news };
        // Where nobody takes it, the master is ending.
        let _ = self.events.send(event).await;
        EndReason::ElsewhereConnected { worker: name, address: other }
    }

    /// Hands news on. Where nobody takes them, the worker waits; where nobody will, the master is ending.
    async fn tell(&mut self, news: WorkerNews) {
        let Stage::Worker { worker, place } = &self.stage else { return };
        let (worker, connection, address) = (worker.clone(), place.number(), self.address);
        if self.events.send(WorkerEvent { worker, connection, address, news }).await.is_err() {
            self.session.end(EndReason::ShuttingDown);
        }
    }
}

/// Returns when a newer connection of the same worker is there; never before it has a name.
async fn replaced(stage: &mut Stage) {
    match stage {
        Stage::Greeting(_) => std::future::pending().await,
        // Nothing is ever sent: it returns when the sender is gone.
        Stage::Worker { place, .. } => drop((&mut place.replaced).await),
    }
}

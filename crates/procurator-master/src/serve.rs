//! The running master: one task owns its state and what it knows of workers, and nothing of that is locked.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use master_protocol::drivers::{
    Directory, Limits, ListenError, MasterListener, MasterTransport, WorkerEvent, WorkerNews,
};
use master_protocol::session::MasterTerms;
use master_protocol::wire::WorkerId;
use master_protocol::wire::v1::Assignment;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};
use vm_model::{Generation, InvalidLineage, Lineage, Timestamp, error_chain};

use crate::control::{self, Answer, ControlError, Question};
use crate::desired::{self, Desired, Extent, Problem};
use crate::fleet::{Fleet, Standing, WorkerStatus};
use crate::state::{MasterState, StateError};

/// How long parts may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a master is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where workers dial.
    pub listen: SocketAddr,
    /// How they are let in.
    pub transport: MasterTransport,
    /// The name that it is to have, where somebody says so. Else it keeps the one that it had.
    pub name: Option<String>,
    /// The name in its certificate, which is the one of a new master.
    pub certified: Option<String>,
    /// How often either end says something.
    pub heartbeat: Duration,
    /// What outlives it.
    pub state_dir: PathBuf,
    /// What should run where.
    pub desired: PathBuf,
}

/// Why a master does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Its numbers cannot be read or kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is called what no master can be called.
    #[error(transparent)]
    Name(#[from] InvalidLineage),
    /// Workers cannot dial it.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It cannot be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The host does not say where it listens.
    #[error("the address that workers dial is not known")]
    Address(#[source] io::Error),
}

/// Runs a master until `shutdown` is over. `listening` is told where, once workers can dial.
///
/// # Errors
/// It cannot begin.
pub async fn serve(
    settings: Settings,
    listening: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut state = MasterState::load(&settings.state_dir)?;
    let before = state.name.clone();
    let name = state.settle_name(settings.name, settings.certified.clone());
    tell_of_names(before.as_deref(), &name, settings.certified.as_deref());
    let lineage = Lineage::new(name, state.epoch.as_str())?;
    // An epoch counts once it is kept.
    state.save(&settings.state_dir)?;
    let terms = MasterTerms { lineage: lineage.clone(), heartbeat: settings.heartbeat };
    let names_are_certified = matches!(settings.transport, MasterTransport::Tls(_));
    let listener =
        MasterListener::bind(settings.listen, settings.transport, terms, Limits::default()).await?;
    let control_listener = control::listen(&settings.state_dir)?;
    let address = listener.local_address().map_err(ServeError::Address)?;
    info!(%address, name = lineage.master(), epoch = lineage.epoch(), "the master listens");
    // Whoever wanted to know may have gone.
    let _ = listening.send(address);

    let (directory, directory_receiver) = watch::channel(Arc::default());
    let (news_sender, mut news) = mpsc::channel(256);
    let (desired_sender, mut desired) = mpsc::channel(1);
    let (questions_sender, mut questions) = mpsc::channel(16);
    let (ending, ended) = oneshot::channel::<()>();
    let workers = tokio::spawn(listener.run(directory_receiver, news_sender, async {
        let _ = ended.await;
    }));
    let watching = tokio::spawn(desired::watch(settings.desired, desired_sender));
    let answering = tokio::spawn(control::serve(control_listener, questions_sender));
    let mut master = Master {
        lineage,
        state,
        state_dir: settings.state_dir,
        names_are_certified,
        desired: Desired::default(),
        fleet: Fleet::default(),
        directory,
    };
    master.publish();
    let mut shutdown = pin!(shutdown);
    loop {
        // All arms are cancel-safe; what they lead to is done before the next is looked at.
        tokio::select! {
            () = &mut shutdown => break,
            Some(event) = news.recv() => master.take_news(event),
            Some(now) = desired.recv() => master.take_desired(now).await,
            Some((question, answer)) = questions.recv() => {
                // Whoever asked may have gone.
                let _ = answer.send(master.answer(question).await);
            }
        }
    }
    drop((ending, news, desired, questions));
    for task in [workers, watching, answering] {
        let _ = tokio::time::timeout(FAREWELL, task).await;
    }
    info!("the master ends; VMs go on");
    Ok(())
}

/// Tells of names that are not what somebody may expect.
fn tell_of_names(before: Option<&str>, name: &str, certified: Option<&str>) {
    if let Some(before) = before.filter(|before| *before != name) {
        warn!(
            name,
            before, "another name: workers hold what a master of another name says, until it is accepted"
        );
    } else if let Some(certified) = certified.filter(|certified| *certified != name) {
        info!(
            name,
            certified, "the certificate has another name; workers know this master by the one it keeps"
        );
    }
}

/// What the one task owns.
struct Master {
    lineage: Lineage,
    state: MasterState,
    state_dir: PathBuf,
    /// Whether workers have certificates.
    names_are_certified: bool,
    desired: Desired,
    fleet: Fleet,
    directory: watch::Sender<Arc<Directory>>,
}

impl Master {
    fn take_news(&mut self, event: WorkerEvent) {
        let worker = event.worker.clone();
        if let WorkerNews::Elsewhere { connected } = &event.news {
            warn!(
                %worker, %connected, refused = %event.address,
                "two hosts have the certificate of one worker: the one that came second is refused, and keeps what runs on it"
            );
        }
        let before = self.fleet.status(&worker, Timestamp::now());
        self.fleet.take(event, self.standing(&worker), Timestamp::now());
        let after = self.fleet.status(&worker, Timestamp::now());
        match (before.connected_since, after.connected_since) {
            (None, Some(_)) => info!(%worker, "a worker is connected"),
            (Some(_), None) => warn!(%worker, reason = after.left, "a worker left"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        if before.host.is_some() && before.host != after.host {
            warn!(
                %worker, before = before.address, now = after.address,
                "a worker comes from another host than before: where that one still runs, its VMs run twice"
            );
        }
        if before.answer != after.answer
            && let Some(answer) = after.answer
        {
            match answer.problem {
                None => info!(%worker, generation = answer.generation, "assignment accepted"),
                Some(problem) => {
                    warn!(%worker, generation = answer.generation, problem, "assignment not in force")
                }
            }
        }
    }

    fn standing(&self, worker: &WorkerId) -> Standing {
        let is_listed = self.state.workers.contains_key(worker) || self.desired.workers.contains_key(worker);
        if self.names_are_certified || is_listed { Standing::Known } else { Standing::Stranger }
    }

    async fn take_desired(&mut self, desired: Desired) {
        for problem in &desired.problems {
            if !self.desired.problems.contains(problem) {
                let Problem { worker: _, extent, text: problem } = problem;
                match extent {
                    Extent::Entry => {
                        error!(problem, "an entry is not used, and its VM stays; the others are");
                    }
                    Extent::File => {
                        error!(problem, "a file is not used; what its worker was told stays");
                    }
                    Extent::Directory => {
                        error!(problem, "no file is used; what workers were told stays");
                    }
                }
            }
        }
        let gone = self.desired.workers.keys().filter(|worker| desired.is_without(worker));
        for worker in gone {
            warn!(%worker, "its file is gone; what it was told stays");
        }
        self.desired = desired;
        if let Err(problem) = self.follow().await {
            error!(error = error_chain(&problem), "workers are not told: the change could not be kept");
        }
    }

    /// Tells workers what follows from files and drains, once it is kept.
    async fn follow(&mut self) -> Result<(), StateError> {
        let mut state = self.state.clone();
        for (worker, wanted) in &self.desired.workers {
            let told = state.workers.entry(worker.clone()).or_default();
            if let Some(set) = told.follow(wanted) {
                let generation = set.generation.unwrap_or_default();
                info!(%worker, %generation, vms = set.vms.len(), "another desired state");
            }
        }
        self.keep(state).await
    }

    /// Puts `state` on stable storage, and publishes what follows from it.
    async fn keep(&mut self, state: MasterState) -> Result<(), StateError> {
        if state == self.state {
            return Ok(());
        }
        let (kept, directory) = (state.clone(), self.state_dir.clone());
        let path = directory.clone();
        // Syncing takes as long as the disk lets it.
        let saved = spawn_blocking(move || kept.save(&directory)).await;
        saved.map_err(|lost| StateError::Host {
            operation: "keep the state in",
            path,
            source: lost.into(),
        })??;
        self.state = state;
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let mut directory = Directory::new();
        for (worker, told) in &self.state.workers {
            let Some(set) = &told.set else { continue };
            let generation = set.generation.unwrap_or_default();
            match Assignment::new(&self.lineage, generation, set) {
                Ok(assignment) => {
                    directory.insert(worker.clone(), Arc::new(assignment));
                }
                Err(problem) => error!(%worker, error = %problem, "a desired state cannot be written"),
            }
        }
        self.directory.send_replace(Arc::new(directory));
    }

    async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Workers => Answer::Workers(self.workers()),
            Question::Vms { worker, after } => Answer::Vms(self.fleet.page(&worker, after.as_ref())),
            Question::Drain(worker) => self.set_drained(worker, true).await,
            Question::Undrain(worker) => self.set_drained(worker, false).await,
        }
    }

    async fn set_drained(&mut self, worker: WorkerId, drained: bool) -> Answer {
        let mut state = self.state.clone();
        if !state.workers.contains_key(&worker) && !self.fleet.knows(&worker) {
            return Answer::Problem(format!("worker {worker} has no file, and was not heard of"));
        }
        let told = state.workers.entry(worker.clone()).or_default();
        told.drained = drained;
        // Without a usable file, what the worker was told stands for it.
        if let Some(wanted) = self.desired.workers.get(&worker).cloned().or_else(|| told.lasting()) {
            told.follow(&wanted);
        }
        info!(%worker, drained, "drained or not");
        match self.keep(state).await {
            Ok(()) => Answer::Done,
            Err(problem) => Answer::Problem(error_chain(&problem)),
        }
    }

    /// Workers that were told or heard of.
    fn workers(&self) -> Vec<WorkerStatus> {
        let told = self.state.workers.keys().filter(|worker| !self.fleet.knows(worker));
        let mut workers: Vec<&WorkerId> = told.chain(self.fleet.names()).collect();
        workers.sort();
        let now = Timestamp::now();
        let status = |worker: &WorkerId| {
            let told = self.state.workers.get(worker);
            let set = told.and_then(|told| told.set.as_ref());
            WorkerStatus {
                drained: told.is_some_and(|told| told.drained),
                assigned_generation: set.and_then(|set| set.generation).map(Generation::get),
                file_problems: self.desired.problems_of(worker),
                ..self.fleet.status(worker, now)
            }
        };
        workers.into_iter().map(status).collect()
    }
}

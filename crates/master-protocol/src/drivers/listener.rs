//! The master's side: accepts workers, each on a task of its own, within limits.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use vm_model::error_chain;

use super::conversation::{Shared, converse};
use super::places::Places;
use super::plain::{PLAIN_TCP_WORDS, PlainTcp};
use super::refusal_log::RefusalLog;
use crate::session::{EndReason, MasterEvent, MasterTerms};
use crate::tls::CredentialStore;
use crate::wire::WorkerId;
use crate::wire::v1::Assignment;

/// Pause after a connection could not be taken, for want of a descriptor or memory.
const RETRY: Duration = Duration::from_millis(100);
/// How long connections may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(3);

/// What should run where: each worker's newest assignment. A worker that is not listed is told nothing.
pub type Directory = BTreeMap<WorkerId, Arc<Assignment>>;

/// How workers reach a master.
#[derive(Clone, Debug)]
pub enum MasterTransport {
    /// By TLS 1.3, with the master's certificate, its key, and the workers' authorities.
    Tls(Arc<CredentialStore>),
    /// Without TLS. Workers are who they say they are.
    Plain(PlainTcp),
}

/// How many connections a master holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// That have not said who they are.
    pub greeting: usize,
    /// Of these, from one address.
    pub greeting_per_address: usize,
    /// Without TLS: of workers that the directory does not list. Nobody vouches for their names, and they could be any number.
    pub strangers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, greeting: 64, greeting_per_address: 16, strangers: 64 }
    }
}

/// News of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEvent {
    /// The worker; with TLS, as its certificate says.
    pub worker: WorkerId,
    /// Which connection; later ones have higher numbers. News of an earlier one may come after those of a later.
    pub connection: u64,
    /// Its address.
    pub address: SocketAddr,
    /// What happened.
    pub news: WorkerNews,
}

/// What happened on a worker's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerNews {
    /// The worker said something.
    Said(MasterEvent),
    /// The connection ended.
    Left(EndReason),
    /// A connection of this name came from another host than the one that is `connected`, and was refused. Such news
    /// have no number of a connection.
    Elsewhere {
        /// Where the worker is connected from.
        connected: SocketAddr,
    },
}

/// Why a master cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The host refuses.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Plain TCP would be open to other hosts.
    #[error(
        "cannot listen on {address} without TLS: configure certificates, or plain TCP as {PLAIN_TCP_WORDS:?} if whoever \
         reaches that address may pose as a worker"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

/// A socket that workers dial.
#[derive(Debug)]
pub struct MasterListener {
    listener: TcpListener,
    transport: MasterTransport,
    terms: MasterTerms,
    limits: Limits,
}

impl MasterListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The host refuses, or the address is open to other hosts and there is no TLS.
    pub async fn bind(
        address: SocketAddr,
        transport: MasterTransport,
        terms: MasterTerms,
        limits: Limits,
    ) -> Result<Self, ListenError> {
        if let MasterTransport::Plain(plain) = transport
            && !plain.permits(address.ip())
        {
            return Err(ListenError::NotLoopback { address });
        }
        let listener =
            TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self { listener, transport, terms, limits })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The host does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves workers until `shutdown` is over: sends each its newest assignment in `directory`, and what they say to
    /// `events`. A worker whose news are not taken from there waits.
    pub async fn run(
        self,
        directory: watch::Receiver<Arc<Directory>>,
        events: mpsc::Sender<WorkerEvent>,
        shutdown: impl Future<Output = ()>,
    ) {
        let (ending, ended) = watch::channel(());
        let places = Places::new(self.limits);
        let shared = Arc::new(Shared {
            transport: self.transport,
            terms: self.terms,
            directory,
            events,
            refusals: RefusalLog::default(),
            ended,
        });
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => admit(stream, address, &places, &shared, &mut tasks),
                    Err(problem) => {
                        warn!(%problem, "a worker was not let in");
                        sleep(RETRY).await;
                    }
                },
            }
        }
        drop((self.listener, ending));
        // Dropping the set ends those that take longer.
        let _ = timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await;
    }
}

/// Gives a connection a task, if there is a place for it. Without one it is closed: it said nothing yet that could be
/// answered.
fn admit(
    stream: TcpStream,
    address: SocketAddr,
    places: &Places,
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
) {
    match places.greet(address.ip()) {
        Ok(greeting) => {
            let shared = Arc::clone(shared);
            tasks.spawn(async move {
                if let Err(problem) = converse(stream, address, greeting, Arc::clone(&shared)).await
                    && let Some(left_out) = shared.refusals.count(Instant::now())
                {
                    let left_out = (left_out > 0).then_some(left_out);
                    warn!(%address, error = error_chain(&problem), left_out, "a connection was refused");
                }
            });
        }
        Err(reason) => debug!(%address, ?reason, "a connection was closed: there is no place for it"),
    }
}

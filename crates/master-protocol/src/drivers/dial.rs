//! Making a worker's connection to its master.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use vm_model::Timestamp;

use super::plain::{PLAIN_TCP_WORDS, PlainTcp};
use super::stream::FramedStream;
use crate::tls::{self, CredentialStore, Credentials, TlsError};

/// How long each step may take: finding the address, connecting, the handshake.
const STEP: Duration = Duration::from_secs(10);

/// How a worker reaches its master.
#[derive(Clone, Debug)]
pub enum WorkerTransport {
    /// By TLS 1.3.
    Tls {
        /// The worker's certificate, its key, and the master's authorities.
        credentials: Arc<CredentialStore>,
        /// The name that the master's certificate must have.
        server_name: String,
    },
    /// Without TLS.
    Plain(PlainTcp),
}

/// Why there is no connection to the master.
#[derive(Debug, Error)]
pub enum DialError {
    /// The master's name has no address.
    #[error("cannot find the address of the master {master:?}")]
    Resolve {
        /// The master, as configured.
        master: String,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to the master at {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("no TLS connection to the master at {address}")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: TlsError,
    },
    /// Plain TCP would leave the host.
    #[error(
        "the master at {address} is on another host: configure TLS, or plain TCP as {PLAIN_TCP_WORDS:?} if whoever is \
         on the way may say what runs here"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// A step took too long.
    #[error("{step} {master:?} took longer than {STEP:?}")]
    TimedOut {
        /// The step.
        step: &'static str,
        /// The master, as configured.
        master: String,
    },
}

/// A connection, and with what the worker proved itself.
pub(super) struct Dialled {
    pub(super) stream: FramedStream,
    pub(super) address: SocketAddr,
    pub(super) credentials: Option<Arc<Credentials>>,
}

/// Whether `master`, a host and port, can be reached: connects, shakes hands where that is done, says nothing and hangs up.
/// Returns the address that answered. A master that refuses this end's certificate says so after the handshake only, which is
/// not waited for.
///
/// # Errors
/// See [`DialError`]: which step failed, and why.
pub async fn reach(master: &str, transport: &WorkerTransport) -> Result<SocketAddr, DialError> {
    dial(master, transport).await.map(|dialled| dialled.address)
}

/// Connects to `master`, a host and port.
pub(super) async fn dial(master: &str, transport: &WorkerTransport) -> Result<Dialled, DialError> {
    let late = |step| DialError::TimedOut { step, master: master.to_owned() };
    let unknown = |source| DialError::Resolve { master: master.to_owned(), source };
    let found = timeout(STEP, tokio::net::lookup_host(master)).await;
    let addresses: Vec<SocketAddr> =
        found.map_err(|_| late("finding the address of"))?.map_err(unknown)?.collect();
    let mut failure = unknown(io::ErrorKind::NotFound.into());
    for address in addresses {
        if let WorkerTransport::Plain(plain) = transport
            && !plain.permits(address.ip())
        {
            failure = DialError::NotLoopback { address };
            continue;
        }
        match timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Without it a small message waits for the acknowledgement of the one before.
                stream.set_nodelay(true).map_err(|source| DialError::Connect { address, source })?;
                let secured = timeout(STEP, secure(stream, address, transport)).await;
                return secured.map_err(|_| late("the TLS handshake with"))?;
            }
            Ok(Err(source)) => failure = DialError::Connect { address, source },
            Err(_) => failure = late("connecting to"),
        }
    }
    Err(failure)
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    transport: &WorkerTransport,
) -> Result<Dialled, DialError> {
    match transport {
        WorkerTransport::Plain(_) => {
            Ok(Dialled { stream: FramedStream::new(stream), address, credentials: None })
        }
        WorkerTransport::Tls { credentials, server_name } => {
            let failed = |source| DialError::Tls { address, source };
            let store = Arc::clone(credentials);
            // Reading files may take as long as their disk lets it.
            let read = spawn_blocking(move || store.current()).await;
            let credentials = read.map_err(|lost| DialError::Connect { address, source: lost.into() })?;
            let credentials = credentials.map_err(failed)?;
            credentials.check_dates(Timestamp::now()).map_err(failed)?;
            let stream = tls::connect(stream, &credentials, server_name).await.map_err(failed)?;
            Ok(Dialled { stream: FramedStream::new(stream), address, credentials: Some(credentials) })
        }
    }
}

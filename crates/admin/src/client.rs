//! The asking end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use vm_model::VmId;

use crate::socket_path::SocketPath;
use crate::{StatusView, VmList, VmView};

/// Longer answers are not taken; a console is at most a few MiB.
const MAX_ANSWER: usize = 64 << 20;
/// How long the worker may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no worker answers on {}: is procurator-worker running, and with this runtime directory?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker refused.
    #[error("{message}")]
    Refused {
        /// Whether the thing asked for does not exist.
        not_found: bool,
        /// What the worker said.
        message: String,
    },
    /// The conversation broke off.
    #[error("the worker's answer to {request} is unusable")]
    Broken {
        /// What was asked.
        request: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The worker took too long.
    #[error("the worker did not answer {request} within {}s", DEADLINE.as_secs())]
    Late {
        /// What was asked.
        request: String,
    },
}

/// A client of one worker. Each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// A client of the worker that listens on `socket`.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self { socket: socket.as_ref().to_owned() }
    }

    /// The worker itself.
    ///
    /// # Errors
    /// See [`ClientError`]; an older worker refuses as if this did not exist.
    pub async fn get_status(&self) -> Result<StatusView, ClientError> {
        self.get_json("/v1/status").await
    }

    /// All VMs, ordered by id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_vms(&self) -> Result<Vec<VmView>, ClientError> {
        let list: VmList = self.get_json("/v1/vms").await?;
        Ok(list.vms)
    }

    /// One VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_vm(&self, id: &VmId) -> Result<VmView, ClientError> {
        self.get_json(&format!("/v1/vms/{id}")).await
    }

    /// What is kept of a VM's console, as the guest wrote it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_console(&self, id: &VmId) -> Result<Vec<u8>, ClientError> {
        Ok(self.get(&format!("/v1/vms/{id}/console")).await?.into())
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|source| broken(path, source))
    }

    async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        let (status, body) = timeout(DEADLINE, self.exchange(path))
            .await
            .map_err(|_| ClientError::Late { request: format!("GET {path}") })??;
        if status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let message = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.error,
            // An older worker says nothing where it knows nothing.
            Err(_) => format!("the worker answers GET {path} with {status}"),
        };
        Err(ClientError::Refused { not_found: status == StatusCode::NOT_FOUND, message })
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.socket.clone(), source };
        let reachable = SocketPath::to(&self.socket).map_err(unreachable)?;
        let stream = UnixStream::connect(reachable.as_path()).await.map_err(unreachable)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| broken(path, source))?;
        let request = Request::get(path)
            .header("host", "worker")
            .body(Empty::<Bytes>::new())
            .map_err(|source| broken(path, source))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|source| broken(path, source))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body =
                body.map_err(|source| ClientError::Broken { request: format!("GET {path}"), source })?;
            Ok((status, body.to_bytes()))
        };
        // The connection moves bytes while the answer is awaited; it ends when the answer has been taken.
        let (answer, _connection) = tokio::join!(answer, connection);
        answer
    }
}

fn broken(path: &str, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Broken { request: format!("GET {path}"), source: Box::new(source) }
}

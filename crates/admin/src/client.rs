//! The asking end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use vm_model::VmId;

use crate::orders::{
    AssignRequest, DeletionRequest, DeletionView, PlanView, RemovedList, VerdictView, VolumeList,
};
use crate::socket_path::SocketPath;
use crate::{StatusView, VmList, VmView};

/// Longer answers are not taken; a console is at most a few MiB.
const MAX_ANSWER: usize = 64 << 20;
/// How long the worker may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take to plan: it compares images, which are read for that.
const PLAN_DEADLINE: Duration = Duration::from_secs(600);

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
    #[error("the worker did not answer {request} within {}s", deadline.as_secs())]
    Late {
        /// What was asked.
        request: String,
        /// How long was waited.
        deadline: Duration,
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

    /// What the desired state `text` would change.
    ///
    /// # Errors
    /// See [`ClientError`]; the state itself may be refused.
    pub async fn plan(&self, text: String) -> Result<PlanView, ClientError> {
        self.post_json("/v1/plan", text.into(), PLAN_DEADLINE).await
    }

    /// Applies the desired state that is held.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where none is held.
    pub async fn allow_removals(&self) -> Result<VerdictView, ClientError> {
        self.post_json("/v1/allow-removals", Bytes::new(), DEADLINE).await
    }

    /// Follows the master that waits to be accepted.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where none waits.
    pub async fn accept_master(&self) -> Result<VerdictView, ClientError> {
        self.post_json("/v1/accept-master", Bytes::new(), DEADLINE).await
    }

    /// Assigns a VM by hand. Takes as long as hashing its store path where it comes without a hash.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where a file or a master has assigned a VM of that name.
    pub async fn assign(&self, request: &AssignRequest) -> Result<VerdictView, ClientError> {
        let body = serde_json::to_vec(request).map_err(|source| broken("POST /v1/vms", source))?;
        self.post_json("/v1/vms", body.into(), PLAN_DEADLINE).await
    }

    /// Takes back what was assigned by hand: the VM is removed, its volumes are kept for a while.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where a file or a master has assigned it.
    pub async fn remove(&self, id: &VmId) -> Result<VerdictView, ClientError> {
        let path = format!("/v1/vms/{id}");
        let name = format!("DELETE {path}");
        let answer = self.ask(&name, Request::delete(path), Bytes::new(), DEADLINE).await?;
        serde_json::from_slice(&answer).map_err(|source| broken(&name, source))
    }

    /// Assigns a removed VM again, as it was, with its data.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where nothing of such a VM is kept.
    pub async fn undelete(&self, id: &VmId) -> Result<VerdictView, ClientError> {
        self.post_json(&format!("/v1/removed/{id}/undelete"), Bytes::new(), DEADLINE).await
    }

    /// Every content of every volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_volumes(&self) -> Result<VolumeList, ClientError> {
        self.get_json("/v1/volumes").await
    }

    /// VMs that were removed and whose volumes are kept.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_removed(&self) -> Result<RemovedList, ClientError> {
        self.get_json("/v1/removed").await
    }

    /// Deletes what is kept for a while, before its time.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where there is no such VM or disk.
    pub async fn delete_kept(&self, request: &DeletionRequest) -> Result<DeletionView, ClientError> {
        let body = serde_json::to_vec(request).map_err(|source| broken("POST /v1/gc", source))?;
        self.post_json("/v1/gc", body.into(), PLAN_DEADLINE).await
    }

    async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let name = format!("POST {path}");
        let request = Request::post(path).header("content-type", "application/json");
        let answer = self.ask(&name, request, body, deadline).await?;
        serde_json::from_slice(&answer).map_err(|source| broken(&name, source))
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|source| broken(&format!("GET {path}"), source))
    }

    async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(&format!("GET {path}"), Request::get(path), Bytes::new(), DEADLINE).await
    }

    /// Sends `request`, called `name`, and takes the answer to it.
    async fn ask(
        &self,
        name: &str,
        request: Builder,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ClientError> {
        let (status, body) = timeout(deadline, self.exchange(name, request, body))
            .await
            .map_err(|_| ClientError::Late { request: name.to_owned(), deadline })??;
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
            Err(_) => format!("the worker answers {name} with {status}"),
        };
        Err(ClientError::Refused { not_found: status == StatusCode::NOT_FOUND, message })
    }

    async fn exchange(
        &self,
        name: &str,
        request: Builder,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.socket.clone(), source };
        let reachable = SocketPath::to(&self.socket).map_err(unreachable)?;
        let stream = UnixStream::connect(reachable.as_path()).await.map_err(unreachable)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| broken(name, source))?;
        let request =
            request.header("host", "worker").body(Full::new(body)).map_err(|source| broken(name, source))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|source| broken(name, source))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|source| ClientError::Broken { request: name.to_owned(), source })?;
            Ok((status, body.to_bytes()))
        };
        // The connection moves bytes while the answer is awaited; it ends when the answer has been taken.
        let (answer, _connection) = tokio::join!(answer, connection);
        answer
    }
}

fn broken(name: &str, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Broken { request: name.to_owned(), source: Box::new(source) }
}

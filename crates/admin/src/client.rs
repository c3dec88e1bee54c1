//! The asking end.

mod console;
mod events;
mod exchange;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Request;
use hyper::body::Bytes;
use serde::Serialize;
use thiserror::Error;
use vm_model::{SourceKind, VmId};

pub use self::console::{ConsoleInput, ConsoleOutput};
pub use self::events::EventStream;
use self::exchange::broken;
use crate::orders::{
    AssignRequest, ChangeRequest, CollectionRequest, CollectionView, DeletionRequest, DeletionView, PlanView,
    RemovedList, VerdictView, VolumeList,
};
use crate::{
    ApiError, DumpView, EventList, HistoryList, HistoryView, OperationList, OperationView, PowerRequest,
    PowerVerb, READ_SOCKET_NAME, SOCKET_NAME, StatusView, VmList, VmLogSource, VmLogView, VmView,
};

/// How long the worker may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take to plan: it compares images, which are read for that.
const PLAN_DEADLINE: Duration = Duration::from_secs(600);

/// How long a VM may take to do what it is told, where the request names no time: the worker's own limits end it before.
const POWER_DEADLINE: Duration = Duration::from_secs(86_400 + 60);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no worker answers on {} (`systemctl start procurator-worker` or `procurator-worker run` starts one; \
         --runtime-dir says where another one's socket is)",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker's socket is not for this user.
    #[error("{} is not for this user: root and the members of its group may use it", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker refused.
    #[error("{error}")]
    Refused {
        /// The HTTP status of its answer.
        status: u16,
        /// What it said.
        error: ApiError,
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
    #[error(
        "the worker{} did not answer {request} on {} within {} s: its log tells what it waits for; one that was killed and is still \
         there waits for a disk that does not answer{}",
        listener.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        socket.display(),
        deadline.as_secs(),
        listener.map(|pid| format!(" (its threads: /proc/{pid}/task)")).unwrap_or_default()
    )]
    Late {
        /// What was asked.
        request: String,
        /// The socket.
        socket: PathBuf,
        /// The process that listens there, where the kernel tells it.
        listener: Option<u32>,
        /// How long was waited.
        deadline: Duration,
    },
}

impl ClientError {
    /// Whether the worker said that there is no such thing, or no such path.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 404,
            Self::Unreachable { .. } | Self::Forbidden { .. } | Self::Broken { .. } | Self::Late { .. } => {
                false
            }
        }
    }
}

/// A client of one worker. Each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct AdminClient {
    socket: PathBuf,
    /// Where questions go whose caller may not use the other one.
    read_socket: Option<PathBuf>,
}

impl AdminClient {
    /// A client of the worker that listens on `socket`.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self { socket: socket.as_ref().to_owned(), read_socket: None }
    }

    /// A client of the worker whose sockets lie in `directory`. What only looks goes by the socket for reading where the
    /// caller may use that one alone.
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self { socket: directory.join(SOCKET_NAME), read_socket: Some(directory.join(READ_SOCKET_NAME)) }
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

    /// What `source` has logged about VM `id`; where it is asked for the `next` of an answer before, what came after that.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_vm_log(
        &self,
        id: &VmId,
        source: VmLogSource,
        after: Option<&str>,
    ) -> Result<VmLogView, ClientError> {
        let source = match source {
            VmLogSource::Worker => "worker",
            VmLogSource::Vmm => "vmm",
        };
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        self.get_json(&format!("/v1/vms/{id}/log?source={source}{after}")).await
    }

    /// What the desired state `text` would change.
    ///
    /// # Errors
    /// See [`ClientError`]; the state itself may be refused.
    pub async fn plan(&self, text: String, source: SourceKind) -> Result<PlanView, ClientError> {
        let path = match source {
            SourceKind::File => "/v1/plan",
            SourceKind::Master => "/v1/plan?source=master",
            SourceKind::Local => "/v1/plan?source=local",
        };
        self.post_json(path, text.into(), PLAN_DEADLINE).await
    }

    /// Applies the desired state that is held for what it removes, of `source` where that is said.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where none is held, or those of several are and none is named.
    pub async fn allow_removals(&self, source: Option<SourceKind>) -> Result<VerdictView, ClientError> {
        self.post_json(removals_of(source), Bytes::new(), DEADLINE).await
    }

    /// What that would change.
    ///
    /// # Errors
    /// As there.
    pub async fn show_removals(&self, source: Option<SourceKind>) -> Result<PlanView, ClientError> {
        self.get_json(removals_of(source)).await
    }

    /// What following the master that waits would change.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where none waits.
    pub async fn show_master(&self) -> Result<PlanView, ClientError> {
        self.get_json("/v1/accept-master").await
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
        self.post_json("/v1/vms", as_json("POST /v1/vms", request)?, PLAN_DEADLINE).await
    }

    /// Changes what was assigned by hand.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where a file or a master has assigned it, or what comes of it cannot be used.
    pub async fn change(&self, id: &VmId, request: &ChangeRequest) -> Result<VerdictView, ClientError> {
        self.patch(format!("/v1/vms/{id}"), request).await
    }

    /// What [`AdminClient::change`] would do.
    ///
    /// # Errors
    /// As there.
    pub async fn plan_change(&self, id: &VmId, request: &ChangeRequest) -> Result<VerdictView, ClientError> {
        self.patch(format!("/v1/vms/{id}?dry_run=true"), request).await
    }

    async fn patch(&self, path: String, request: &ChangeRequest) -> Result<VerdictView, ClientError> {
        let name = format!("PATCH {path}");
        let body = as_json(&name, request)?;
        let answer = self.ask(&name, Request::patch(path), body, PLAN_DEADLINE).await?;
        serde_json::from_slice(&answer).map_err(|source| broken(&name, source))
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

    /// Deletes what is kept for a while, before its time, or tells what that would be.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where there is no such VM or disk.
    pub async fn delete_kept(
        &self,
        request: &DeletionRequest,
        dry_run: bool,
    ) -> Result<DeletionView, ClientError> {
        let path = format!("/v1/gc?dry_run={dry_run}");
        self.post_json(&path, as_json("POST /v1/gc", request)?, PLAN_DEADLINE).await
    }

    /// Deletes fetched store paths that nothing needs, or tells which those would be; that takes as long as it takes.
    ///
    /// # Errors
    /// See [`ClientError`]; also where it is not known what is needed.
    pub async fn collect_images(
        &self,
        request: &CollectionRequest,
        dry_run: bool,
    ) -> Result<CollectionView, ClientError> {
        let path = format!("/v1/images/gc?dry_run={dry_run}");
        self.post_json(&path, as_json("POST /v1/images/gc", request)?, POWER_DEADLINE).await
    }

    /// Has VM `id` told to do `verb`. Where `request` waits, that takes as long as it takes.
    ///
    /// # Errors
    /// See [`ClientError`]; where it waited, also why it was not done.
    pub async fn power(
        &self,
        id: &VmId,
        verb: PowerVerb,
        request: &PowerRequest,
    ) -> Result<OperationView, ClientError> {
        let path = format!("/v1/vms/{id}/{verb}");
        let body = as_json(&format!("POST {path}"), request)?;
        let deadline = match request {
            PowerRequest { wait: false, .. } => DEADLINE,
            PowerRequest { timeout_seconds: Some(seconds), .. } => {
                DEADLINE.saturating_add(Duration::from_secs(*seconds))
            }
            PowerRequest { timeout_seconds: None, .. } => POWER_DEADLINE,
        };
        self.post_json(&path, body, deadline).await
    }

    /// Where the vCPUs of VM `id` are. The machine goes on.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where it has no machine.
    pub async fn dump(&self, id: &VmId) -> Result<DumpView, ClientError> {
        self.post_json(&format!("/v1/vms/{id}/dump"), Bytes::new(), DEADLINE).await
    }

    /// The operations that are being carried out and the newest of those that ended, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_operations(&self) -> Result<OperationList, ClientError> {
        self.get_json("/v1/operations").await
    }

    /// Operation `id`: when it has ended, or as it is after `longest`, which is at most ten minutes.
    ///
    /// # Errors
    /// See [`ClientError`]; refused where there is no such operation.
    pub async fn get_operation(&self, id: u64, longest: Duration) -> Result<OperationView, ClientError> {
        let path = format!("/v1/operations/{id}?wait={}", longest.as_secs());
        let name = format!("GET {path}");
        let deadline = DEADLINE.saturating_add(longest);
        let answer = self.ask(&name, Request::get(path), Bytes::new(), deadline).await?;
        serde_json::from_slice(&answer).map_err(|source| broken(&name, source))
    }

    /// What happened after event `since`, or everything that is kept; of one VM where one is given.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_events(&self, since: Option<u64>, vm: Option<&VmId>) -> Result<EventList, ClientError> {
        self.get_json(&events::path(since, vm, false)).await
    }

    /// Follows what happens after event `since`, or from now on; to one VM where one is given.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn follow_events(
        &self,
        since: Option<u64>,
        vm: Option<&VmId>,
    ) -> Result<EventStream, ClientError> {
        events::follow(self, &events::path(since, vm, true)).await
    }

    /// What all VMs used in the last minutes: the newest `points` samples of each.
    ///
    /// # Errors
    /// See [`ClientError`]; an older worker refuses as if this did not exist.
    pub async fn list_history(&self, points: usize) -> Result<HistoryList, ClientError> {
        self.get_json(&format!("/v1/history?points={points}")).await
    }

    /// What VM `id` used in the last minutes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_history(&self, id: &VmId) -> Result<HistoryView, ClientError> {
        self.get_json(&format!("/v1/vms/{id}/history")).await
    }

    /// The figures of the worker and its VMs, as Prometheus text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_metrics(&self) -> Result<String, ClientError> {
        const NAME: &str = "GET /v1/metrics";
        let request = Request::get("/v1/metrics").header("accept", "text/plain");
        let text = self.ask(NAME, request, Bytes::new(), DEADLINE).await?;
        String::from_utf8(text.into()).map_err(|problem| broken(NAME, problem))
    }

    /// The OpenAPI document of the worker's interface.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.get_json("/v1/openapi.json").await
    }
}

fn removals_of(source: Option<SourceKind>) -> &'static str {
    match source {
        None => "/v1/allow-removals",
        Some(SourceKind::Master) => "/v1/allow-removals?source=master",
        Some(SourceKind::File) => "/v1/allow-removals?source=file",
        Some(SourceKind::Local) => "/v1/allow-removals?source=local",
    }
}

fn as_json(name: &str, value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|source| broken(name, source))
}

//! The serving end: a Unix socket, and what is answered on it.

mod assigning;
mod names;
mod orders;

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as Argument, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tracing::warn;
use vm_model::VmId;
use worker::node::NodeMessage;
use worker::vms::{ConsoleSnapshot, VmInfo, VmManager, VmManagerError};

use crate::serving;
use crate::socket_path::SocketPath;
use crate::{StatusView, VmList, VmView};

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
/// Larger requests are refused.
const MAX_BODY: usize = 1 << 20;

/// Tells how the worker is now. Called for each request for it; it must not wait for anything.
pub type StatusSource = Arc<dyn Fn() -> StatusView + Send + Sync>;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another worker answers on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something is there that is not ours to replace.
    #[error("cannot bind the admin socket {}: something that is no socket is there; move it away", path.display())]
    NoSocket {
        /// What should be the socket.
        path: PathBuf,
    },
    /// The host refused.
    #[error("cannot {operation} the admin socket {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound socket, ready to serve. The socket file goes with this value.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by hand; nothing else can be done here.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AdminServer {
    /// Binds `path`; a socket there on which nobody answers is taken over. Must be called on a runtime.
    ///
    /// # Errors
    /// Somebody answers there, something else is there, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |operation| move |source| BindError::Io { operation, path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look for")(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NoSocket { path: path.to_owned() });
            }
            Ok(_) if is_answered(path) => {
                return Err(BindError::InUse { path: path.to_owned() });
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed("replace"))?,
        }
        let reachable = SocketPath::to(path).map_err(failed("bind"))?;
        let listener = UnixListener::bind(reachable.as_path()).map_err(failed("bind"))?;
        if reachable.is_too_long() {
            warn!(socket = %path.display(), "the admin socket's path is longer than 107 bytes: this program's client finds it, others connect by way of its directory");
        }
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(failed("set the permissions of"))?;
        Ok(Self { listener, file })
    }

    /// Answers until `shutdown` is over, at most `limit` clients at a time; then requests under way are finished.
    pub async fn serve(
        self,
        vm_manager: Arc<VmManager>,
        node: mpsc::Sender<NodeMessage>,
        status: StatusSource,
        limit: usize,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        serving::serve(self.listener, router(Answers { vm_manager, status, node }), limit, shutdown).await;
        drop(self.file);
    }
}

/// Whether somebody listens on the socket at `path`.
fn is_answered(path: &Path) -> bool {
    SocketPath::to(path).and_then(|reachable| UnixStream::connect(reachable.as_path())).is_ok()
}

/// Where answers come from.
#[derive(Clone)]
struct Answers {
    vm_manager: Arc<VmManager>,
    status: StatusSource,
    /// Where the reconciler is asked.
    node: mpsc::Sender<NodeMessage>,
}

fn router(answers: Answers) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/vms", get(list_vms).post(assigning::assign))
        .route("/v1/vms/{id}", get(inspect_vm).delete(assigning::remove))
        .route("/v1/vms/{id}/console", get(console))
        .route("/v1/plan", post(orders::plan))
        .route("/v1/allow-removals", post(orders::allow_removals))
        .route("/v1/accept-master", post(orders::accept_master))
        .route("/v1/volumes", get(orders::volumes))
        .route("/v1/removed", get(orders::removed))
        .route("/v1/removed/{id}/undelete", post(assigning::undelete))
        .route("/v1/gc", post(orders::gc))
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(answers)
}

async fn no_such_path() -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, error: "this worker has nothing at this path".to_owned() }
}

async fn status(State(answers): State<Answers>) -> Json<StatusView> {
    Json((answers.status)())
}

async fn list_vms(State(Answers { vm_manager, .. }): State<Answers>) -> Json<VmList> {
    let vms = vm_manager.list_vms().into_iter().map(|info| view(&vm_manager, info)).collect();
    Json(VmList { vms })
}

async fn inspect_vm(
    State(Answers { vm_manager, .. }): State<Answers>,
    Argument(id): Argument<String>,
) -> Result<Json<VmView>, Refusal> {
    let id = parse(&id)?;
    let info = vm_manager.get_vm(&id).map_err(|problem| match vm_manager.list_damaged().remove(&id) {
        Some(problem) => VmManagerError::Damaged { id, problem },
        None => problem,
    })?;
    Ok(Json(view(&vm_manager, info)))
}

async fn console(
    State(Answers { vm_manager, .. }): State<Answers>,
    Argument(id): Argument<String>,
) -> Result<Vec<u8>, Refusal> {
    let ConsoleSnapshot { head, omitted, tail, .. } = vm_manager.get_vm_console(&parse(&id)?)?;
    let gap = match omitted {
        0 => Vec::new(),
        bytes => format!("\n[{bytes} bytes are not kept]\n").into_bytes(),
    };
    Ok([head, gap, tail].concat())
}

fn view(vm_manager: &VmManager, info: VmInfo) -> VmView {
    let metrics = vm_manager.get_vm_metrics(&info.id).ok();
    VmView::new(info, metrics.as_ref())
}

fn parse(id: &str) -> Result<VmId, Refusal> {
    VmId::parse(id).map_err(|problem| Refusal { status: StatusCode::BAD_REQUEST, error: problem.to_string() })
}

/// An answer that says no.
struct Refusal {
    status: StatusCode,
    error: String,
}

impl From<VmManagerError> for Refusal {
    fn from(problem: VmManagerError) -> Self {
        let status = match problem {
            VmManagerError::NoSuchVm { .. } | VmManagerError::NeverRan { .. } => StatusCode::NOT_FOUND,
            VmManagerError::Damaged { .. } => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error: problem.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_taken_over_when_nobody_answers_and_nothing_else_ever_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.sock");
        let first = AdminServer::bind(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, SOCKET_MODE);
        assert!(matches!(AdminServer::bind(&path), Err(BindError::InUse { .. })));
        drop(first);
        assert!(!path.exists(), "the file goes with the server");

        drop(std::os::unix::net::UnixListener::bind(&path).expect("what a killed worker leaves"));
        drop(AdminServer::bind(&path).expect("taken over"));
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(AdminServer::bind(&path), Err(BindError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }
}

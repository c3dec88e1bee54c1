//! A request and its answer, over a connection of its own.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::http::request::Builder;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{AdminClient, ClientError, DEADLINE};
use crate::socket_path::SocketPath;
use crate::worker_process::find_listener;
use crate::{ApiError, ErrorCode};

/// Longer answers are not taken; a console is at most a few MiB.
const MAX_ANSWER: usize = 64 << 20;

/// What is asked first.
const FIRST: &str = "GET /v1/status";

/// What moves the bytes of a connection while an answer is awaited.
pub(super) type Moving = Connection<TokioIo<UnixStream>, Full<Bytes>>;

impl AdminClient {
    pub(super) async fn post_json<T: DeserializeOwned>(
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

    pub(super) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|source| broken(&format!("GET {path}"), source))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(&format!("GET {path}"), Request::get(path), Bytes::new(), DEADLINE).await
    }

    /// Sends `request`, called `name`, and takes the answer to it. Where that may take long, the worker is first asked something that
    /// does not: one that answers nothing at all is told of soon.
    pub(super) async fn ask(
        &self,
        name: &str,
        request: Builder,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ClientError> {
        if deadline > DEADLINE {
            let first = self.exchange(FIRST, Request::get("/v1/status"), Bytes::new());
            self.within(DEADLINE, FIRST, first).await?;
        }
        let (status, body) = self.within(deadline, name, self.exchange(name, request, body)).await?;
        if status.is_success() { Ok(body) } else { Err(refused(name, status, &body)) }
    }

    /// What `answer` to the request `name` comes to, where it does before the `deadline`.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        name: &str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_late) => {
                let listener = find_listener(&self.socket);
                let (request, socket) = (name.to_owned(), self.socket.clone());
                Err(ClientError::Late { request, socket, listener, deadline })
            }
        }
    }

    async fn exchange(
        &self,
        name: &str,
        request: Builder,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) = self.connect(name).await?;
        let answer = async move {
            let response = send(&mut sender, name, request, body).await?;
            let status = response.status();
            Ok((status, whole(name, response).await?))
        };
        // The connection moves bytes while the answer is awaited; it ends when the answer has been taken.
        let (answer, _connection) = tokio::join!(answer, connection);
        answer
    }

    /// A connection to the worker.
    pub(super) async fn connect(
        &self,
        name: &str,
    ) -> Result<(SendRequest<Full<Bytes>>, Moving), ClientError> {
        let stream = match (open(&self.socket).await, &self.read_socket) {
            (Err(ClientError::Forbidden { path, source }), Some(read)) if name.starts_with("GET ") => {
                // Where that is not to be had either, the other one is what the caller lacks.
                open(read).await.map_err(|_| ClientError::Forbidden { path, source })?
            }
            (opened, _) => opened?,
        };
        http1::handshake(TokioIo::new(stream)).await.map_err(|source| broken(name, source))
    }
}

async fn open(socket: &Path) -> Result<UnixStream, ClientError> {
    let unreachable = |source: io::Error| {
        let path = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden { path, source },
            _ => ClientError::Unreachable { path, source },
        }
    };
    let reachable = SocketPath::to(socket).map_err(unreachable)?;
    UnixStream::connect(reachable.as_path()).await.map_err(unreachable)
}

/// Sends `request`; answers when the head of the answer is there.
pub(super) async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    name: &str,
    request: Builder,
    body: Bytes,
) -> Result<Response<Incoming>, ClientError> {
    let request = request.header("host", "worker").body(Full::new(body));
    let request = request.map_err(|source| broken(name, source))?;
    sender.send_request(request).await.map_err(|source| broken(name, source))
}

/// The whole body of an answer.
pub(super) async fn whole(name: &str, response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|source| ClientError::Broken { request: name.to_owned(), source })?;
    Ok(body.to_bytes())
}

/// What the worker said no with.
pub(super) fn refused(name: &str, status: StatusCode, body: &[u8]) -> ClientError {
    let error = serde_json::from_slice(body).unwrap_or_else(|_| {
        // An older worker says nothing where it knows nothing.
        ApiError::new(ErrorCode::Unknown, format!("the worker answers {name} with {status}"))
    });
    ClientError::Refused { status: status.as_u16(), error }
}

pub(super) fn broken(name: &str, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Broken { request: name.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::{PowerRequest, PowerVerb};
    use vm_model::VmId;

    /// The clock stands still while anything is done, and goes on at once where everybody waits.
    #[tokio::test(start_paused = true)]
    async fn a_worker_that_never_answers_is_told_of_by_socket_time_and_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("worker.sock");
        let _silent = UnixListener::bind(&socket).expect("bound");
        let client = AdminClient::new(&socket);
        // It may wait for a day, but not for a first answer.
        let request = PowerRequest { timeout_seconds: None, wait: true, force: false };
        let told = [
            client.list_vms().await.expect_err("no answer"),
            client.power(&VmId::new("a"), PowerVerb::Stop, &request).await.expect_err("no answer"),
            client.follow_events(None, None).await.expect_err("no answer"),
        ];
        for told in told.map(|told| told.to_string()) {
            for words in [socket.to_str().expect("text"), "within 30 s", &std::process::id().to_string()] {
                assert!(told.contains(words), "{words} is not in {told}");
            }
        }
    }
}

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
use crate::{ApiError, ErrorCode};

/// Longer answers are not taken; a console is at most a few MiB.
const MAX_ANSWER: usize = 64 << 20;

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

    /// Sends `request`, called `name`, and takes the answer to it.
    pub(super) async fn ask(
        &self,
        name: &str,
        request: Builder,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ClientError> {
        let (status, body) = timeout(deadline, self.exchange(name, request, body))
            .await
            .map_err(|_| ClientError::Late { request: name.to_owned(), deadline })??;
        if status.is_success() { Ok(body) } else { Err(refused(name, status, &body)) }
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

//! Asking web servers: GET by HTTP/1.1, TLS 1.3 for `https`, connections used again, redirections followed a few times and
//! never from `https` to `http`.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cache::{HttpPlace, Server};

/// How long a server may take to be connected with, and to begin its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer may stand still.
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// Redirections followed one after another.
const MOST_REDIRECTIONS: usize = 5;
/// Connections to one server that are kept for the next request.
const MOST_IDLE: usize = 8;
/// As whom we introduce ourselves.
const AGENT: &str = concat!("procurator-worker/", env!("CARGO_PKG_VERSION"));

/// Why something cannot be had from a server.
#[derive(Debug, Error)]
pub enum HttpError {
    /// It cannot be connected with, or the connection broke.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// It does not speak HTTP as expected.
    #[error("the server's answer cannot be read")]
    Answer(#[source] hyper::Error),
    /// It answers otherwise.
    #[error("the server answers with status {0}")]
    Status(u16),
    /// It says nothing.
    #[error("the server said nothing for {0:?}")]
    Silent(Duration),
    /// It sends so little that the end would never come.
    #[error("the server sent fewer than {least} bytes a second for {over:?}")]
    Slow {
        /// What is accepted on average.
        least: u64,
        /// For how long it had been watched.
        over: Duration,
    },
    /// It sends one elsewhere without end, to nowhere, or to where it is not safe.
    #[error("the server sends elsewhere: {0}")]
    Redirection(&'static str),
    /// Its answer is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// Whom to trust in TLS is not known.
    #[error("cannot read the certificates of authorities in {path:?}, which https needs")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory of a cache is not there.
    #[error("there is no directory {0:?}")]
    NoDirectory(PathBuf),
    /// A file of a cache in a directory cannot be read.
    #[error("the file cannot be read")]
    File(#[source] io::Error),
    /// What is asked for cannot be asked.
    #[error("the request cannot be made")]
    Request(#[source] hyper::http::Error),
}

type Sender = SendRequest<Empty<Bytes>>;

/// A client for all servers.
pub(crate) struct HttpClient {
    authorities: PathBuf,
    tls: OnceLock<TlsConnector>,
    idle: Mutex<HashMap<Server, Vec<Sender>>>,
}

/// An answer whose body is still to be read, and the connection that it comes by.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    server: Server,
    sender: Sender,
}

impl HttpClient {
    /// A client that believes in the authorities whose certificates `authorities` holds, a PEM file. It is read when the
    /// first `https` server is asked.
    pub(crate) fn new(authorities: PathBuf) -> Self {
        Self { authorities, tls: OnceLock::new(), idle: Mutex::default() }
    }

    /// All of what lies at `place`, at most `longest` bytes; `None` where nothing does.
    pub(crate) async fn get_small(
        &self,
        place: &HttpPlace,
        longest: usize,
    ) -> Result<Option<Bytes>, HttpError> {
        let mut answer = self.get(place, 0).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            // Caches in object stores answer so for what is not there.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => return Ok(None),
            other => return Err(HttpError::Status(other.as_u16())),
        }
        let body = Limited::new(answer.response.body_mut(), longest).collect();
        let body = timeout(LONGEST_SILENCE, body).await.map_err(|_| HttpError::Silent(LONGEST_SILENCE))?;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => HttpError::Answer(*error),
            Err(_) => HttpError::TooLong(longest),
        })?;
        self.keep(answer);
        Ok(Some(body.to_bytes()))
    }

    /// Begins to read what lies at `place`, from byte `from` on where the server can.
    pub(crate) async fn get(&self, place: &HttpPlace, from: u64) -> Result<Answer, HttpError> {
        let mut place = place.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            let answer = timeout(PATIENCE, self.ask(&place, from)).await;
            let answer = answer.map_err(|_| HttpError::Silent(PATIENCE))??;
            if !answer.response.status().is_redirection() {
                return Ok(answer);
            }
            place = redirected(&place, &answer.response)?;
        }
        Err(HttpError::Redirection("more than five times"))
    }

    /// Keeps the connection of an answer that was read to its end.
    pub(crate) fn keep(&self, answer: Answer) {
        if answer.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(answer.server).or_default();
        if senders.len() < MOST_IDLE {
            senders.push(answer.sender);
        }
    }

    async fn ask(&self, place: &HttpPlace, from: u64) -> Result<Answer, HttpError> {
        let request = |place: &HttpPlace| {
            let path = if place.path.is_empty() { "/" } else { &place.path };
            let mut request =
                Request::get(path).header(HOST, place.server.authority()).header(USER_AGENT, AGENT);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            request.body(Empty::new()).map_err(HttpError::Request)
        };
        // One that was kept may have been closed by the server meanwhile, which shows only when it is used.
        while let Some(mut sender) = self.take_idle(&place.server) {
            if let Ok(response) = sender.send_request(request(place)?).await {
                return Ok(Answer { response, server: place.server.clone(), sender });
            }
        }
        let mut sender = self.connect(&place.server).await?;
        let response = sender.send_request(request(place)?).await.map_err(HttpError::Answer)?;
        Ok(Answer { response, server: place.server.clone(), sender })
    }

    fn take_idle(&self, server: &Server) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(server)?.pop()
    }

    async fn connect(&self, server: &Server) -> Result<Sender, HttpError> {
        let host = server.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, server.port)).await.map_err(HttpError::Connection)?;
        if !server.is_secure {
            return converse(TokioIo::new(stream)).await;
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| HttpError::Connection(io::Error::other(error)))?;
        let stream = self.tls()?.connect(name, stream).await.map_err(HttpError::Connection)?;
        converse(TokioIo::new(stream)).await
    }

    fn tls(&self) -> Result<&TlsConnector, HttpError> {
        if let Some(connector) = self.tls.get() {
            return Ok(connector);
        }
        let connector = connector(&self.authorities)
            .map_err(|source| HttpError::Authorities { path: self.authorities.clone(), source })?;
        Ok(self.tls.get_or_init(|| connector))
    }
}

fn connector(authorities: &PathBuf) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authorities).map_err(io::Error::other)?;
    // One that this library cannot read is nobody's authority here.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn converse<S>(stream: TokioIo<S>) -> Result<Sender, HttpError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(HttpError::Answer)?;
    // Ends when its sender is dropped or the server closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection with a binary cache ended");
        }
    });
    Ok(sender)
}

/// Where an answer sends one that asked for what lies at `from`.
fn redirected(from: &HttpPlace, response: &Response<Incoming>) -> Result<HttpPlace, HttpError> {
    let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = target.ok_or(HttpError::Redirection("to nowhere"))?;
    let place = if target.starts_with('/') && !target.starts_with("//") {
        HttpPlace { server: from.server.clone(), path: target.to_owned() }
    } else {
        HttpPlace::parse(target).ok_or(HttpError::Redirection("to where it cannot be followed"))?
    };
    if from.server.is_secure && !place.server.is_secure {
        return Err(HttpError::Redirection("from https to http"));
    }
    Ok(place)
}

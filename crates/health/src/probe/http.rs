//! Whether a web server in the guest answers as expected: one GET by HTTP/1.1, without encryption and without following
//! redirections.

use std::net::{Ipv4Addr, SocketAddrV4};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use vm_model::HttpCheck;

use super::tcp;
use crate::finding::ProbeFailure;
use crate::marker::MarkerMatcher;

/// How much of an answer's body is looked through.
const BODY_MAX: usize = 64 << 10;
/// The most bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;
/// The most bytes of a whole answer as it comes, with interim answers and the framing of its body.
const ANSWER_MAX: u64 = 1 << 20;
/// As whom a probe introduces itself.
const AGENT: &str = concat!("procurator-probe/", env!("CARGO_PKG_VERSION"));

/// Asks the server at `address` as `check` says.
pub(super) async fn get(address: Ipv4Addr, check: &HttpCheck) -> Result<(), ProbeFailure> {
    let target = SocketAddrV4::new(address, check.port.get()).to_string();
    let (reader, writer) = tcp::connect(address, check.port).await?.into_split();
    // What comes after that reads as the connection's end: interim answers could follow each other for ever.
    let stream = tokio::io::join(reader.take(ANSWER_MAX), writer);
    let http = |source| ProbeFailure::Http { target: target.clone(), source };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with this call, whatever the server does.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = Request::get(&check.path)
        .header(HOST, check.host.as_deref().unwrap_or(&target))
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(ProbeFailure::Request)?;
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status().as_u16();
    let (least, greatest) = (check.least_status, check.greatest_status);
    if !(least..=greatest).contains(&status) {
        return Err(ProbeFailure::Status { status, least, greatest });
    }
    match &check.body_contains {
        Some(phrase) => find(response.into_body(), phrase).await.map_err(http)?,
        None => Ok(()),
    }
}

/// Looks for `phrase` in the first bytes of `body`.
async fn find(mut body: Incoming, phrase: &str) -> Result<Result<(), ProbeFailure>, hyper::Error> {
    let mut matcher = MarkerMatcher::new(phrase);
    let mut read = 0;
    while !matcher.feed(&[]) && read < BODY_MAX {
        let Some(frame) = body.frame().await else { break };
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        let data = &data[..data.len().min(BODY_MAX - read)];
        read += data.len();
        matcher.feed(data);
    }
    if matcher.feed(&[]) {
        Ok(Ok(()))
    } else {
        Ok(Err(ProbeFailure::Phrase { phrase: phrase.to_owned(), read }))
    }
}

#[cfg(test)]
mod tests;

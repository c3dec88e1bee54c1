//! Connections to the page's address: TCP, then TLS 1.3.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vm_model::Caller;

use super::certificate::ServedCertificate;
use crate::connections::Entry;
use crate::serving::Listener;

/// A client that says nothing for so long is asked whether it is there.
const QUIET: Duration = Duration::from_secs(30);
/// A client that answers nothing for so long is gone, and gives back what it has: its place, a console's pen.
const GONE_MILLIS: u32 = 60_000;

/// Listens with a certificate.
#[derive(Debug)]
pub(super) struct TlsListener {
    listener: TcpListener,
    certificate: Arc<ServedCertificate>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, certificate: Arc<ServedCertificate>) -> Self {
        Self { listener, certificate }
    }
}

impl Listener for TlsListener {
    type Socket = TcpStream;
    type Stream = TlsStream<TcpStream>;
    const NAME: &'static str = "the page's address";
    const ENTRY: Entry = Entry::Open;

    async fn next(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    fn caller(stream: &TcpStream) -> Caller {
        // One that has gone already has no address.
        stream.peer_addr().map_or(Caller::UNKNOWN, |address| Caller::at(address.ip().to_canonical()))
    }

    fn refuse(_stream: &TcpStream) {
        // It speaks TLS, for which there is no place: the end of the connection must say enough.
    }

    fn open(
        &self,
        stream: TcpStream,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + Send + 'static {
        let certificate = Arc::clone(&self.certificate);
        async move {
            watch(&stream)?;
            let config = spawn_blocking(move || certificate.current()).await.map_err(io::Error::other)?;
            TlsAcceptor::from(config).accept(stream).await
        }
    }
}

/// Has the kernel end `stream` when nobody is at its other end any more.
fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, QUIET)?;
    set_tcp_keepintvl(stream, QUIET)?;
    set_tcp_user_timeout(stream, GONE_MILLIS)?;
    Ok(())
}

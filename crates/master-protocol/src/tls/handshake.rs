//! The handshake of both ends, on a connection that is there already.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::credentials::Credentials;
use super::error::TlsError;
use super::verifier::{Noting, Shown};
use crate::wire::WorkerId;

/// How long a refused end may take to hear why.
const FAREWELL: Duration = Duration::from_secs(1);
/// How much of what it goes on sending is read.
const HEARD_OUT_MOST: u64 = 64 << 10;

/// The worker's handshake with the master called `server_name`. That the master refuses the worker's certificate shows
/// only afterwards, when the first bytes are read: see [`refusal_of_ours`].
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
    server_name: &str,
) -> Result<client::TlsStream<S>, TlsError> {
    let invalid = |_| TlsError::ServerName { name: server_name.to_owned() };
    let name = ServerName::try_from(server_name.to_owned()).map_err(invalid)?;
    let shown = Shown::default();
    let config = client_config(credentials, &shown).map_err(unusable)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|problem| explain(problem, credentials, &shown))
}

/// The master's handshake with a worker, and who that is.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
) -> Result<(server::TlsStream<S>, WorkerId), TlsError> {
    let shown = Shown::default();
    let config = server_config(credentials, &shown).map_err(unusable)?;
    let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).into_fallible().await;
    let stream = match accepted {
        Ok(stream) => stream,
        Err((problem, mut stream)) => {
            // Closed with unread bytes in it, the socket would take back the alert that says why.
            let _ = timeout(FAREWELL, hear_out(&mut stream)).await;
            return Err(explain(problem, credentials, &shown));
        }
    };
    let Some(facts) = shown.get() else {
        return Err(unusable("the certificate that was verified cannot be read"));
    };
    match facts.worker() {
        Some(worker) => Ok((stream, worker)),
        None => Err(TlsError::NoWorkerName { facts: Box::new(facts.clone()) }),
    }
}

async fn hear_out(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(HEARD_OUT_MOST), &mut tokio::io::sink()).await.map(drop)
}

fn client_config(
    credentials: &Credentials,
    shown: &Shown,
) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let (provider, roots) = (Arc::clone(&credentials.provider), Arc::clone(&credentials.authorities));
    let verifier: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let own = SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&credentials.key));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Noting { verifier, shown: Arc::clone(shown) }))
        .with_client_cert_resolver(Arc::new(own));
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn server_config(
    credentials: &Credentials,
    shown: &Shown,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let (provider, roots) = (Arc::clone(&credentials.provider), Arc::clone(&credentials.authorities));
    let verifier: Arc<dyn ClientCertVerifier> =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let own = SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&credentials.key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Noting { verifier, shown: Arc::clone(shown) }))
        .with_cert_resolver(Arc::new(own));
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn unusable(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::Handshake { source: io::Error::other(problem) }
}

/// What a failed handshake means, as far as certificates are the cause.
fn explain(problem: io::Error, credentials: &Credentials, shown: &Shown) -> TlsError {
    if let Some(refusal) = refusal_of_ours(&problem, credentials) {
        return refusal;
    }
    match (tls_error(&problem), shown.get()) {
        (Some(invalid @ rustls::Error::InvalidCertificate(_)), Some(facts)) => TlsError::PeerCertificate {
            facts: Box::new(facts.clone()),
            authorities: credentials.files().authorities.clone(),
            problem: invalid.clone(),
        },
        (None, _) if matches!(problem.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            TlsError::Closed
        }
        (Some(_) | None, _) => TlsError::Handshake { source: problem },
    }
}

/// The meaning of a failed read or handshake, where the other end does not accept this end's certificate.
pub(crate) fn refusal_of_ours(problem: &io::Error, credentials: &Credentials) -> Option<TlsError> {
    let source = tls_error(problem)?;
    let rustls::Error::AlertReceived(alert) = source else { return None };
    let is_about_certificates = matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    );
    is_about_certificates.then(|| TlsError::OwnRefused {
        path: credentials.files().certificate.clone(),
        facts: Box::new(credentials.facts().clone()),
        source: source.clone(),
    })
}

fn tls_error(problem: &io::Error) -> Option<&rustls::Error> {
    problem.get_ref()?.downcast_ref()
}

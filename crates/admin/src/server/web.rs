//! The page's own address: TLS to any host that connects, the page to anybody, and the interface to whoever has shown the
//! token.

mod certificate;
mod gate;
mod listener;

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use master_protocol::tls::{Identity, TlsError};
use tokio::net::TcpListener;
use web_page::{Token, TokenError};

use self::certificate::ServedCertificate;
use self::gate::{Gate, log_in, log_out, only_who_is_known};
use self::listener::TlsListener;
use super::listening::{ListenError, Listening};
use crate::access::Access;
use crate::serving;

/// Connections at a time; a quarter of them for one address.
const CLIENTS: usize = 64;

/// Where the page is shown to other hosts, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSettings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The file with the certificate, and the intermediate ones, in PEM form. Read anew when it has changed.
    pub certificate: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
    /// The file with the token.
    pub token: PathBuf,
    /// What whoever knows the token may do.
    pub access: Access,
}

/// Why the page has no address.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Its certificate cannot be used.
    #[error("no certificate to show")]
    Certificate(#[from] TlsError),
    /// Its token cannot be used.
    #[error("no token to ask for")]
    Token(#[from] TokenError),
    /// The cryptographic provider does not do TLS 1.3.
    #[error("no TLS 1.3 with this certificate")]
    Tls(#[from] rustls::Error),
}

impl WebSettings {
    /// Reads the files and says what is wrong with them. Nothing is made.
    ///
    /// # Errors
    /// The first of them that cannot be used.
    pub fn check(&self) -> Result<(), WebError> {
        Token::read(&self.token)?;
        Identity::load(&self.certificate, &self.key)?.http_server()?;
        Ok(())
    }
}

/// The bound address.
#[derive(Debug)]
pub(super) struct Web {
    listener: TlsListener,
    certificate: Arc<ServedCertificate>,
    gate: Gate,
    access: Access,
}

impl Web {
    /// Reads the files and listens. Must be called on a runtime.
    pub(super) fn bind(settings: &WebSettings, listening: &Listening) -> Result<Self, ListenError> {
        let WebSettings { listen, certificate, key, token, access } = settings;
        let refused = |source| ListenError::Page { address: *listen, source };
        let certificate = ServedCertificate::open(certificate.clone(), key.clone(), listening.clone())
            .map(Arc::new)
            .map_err(ListenError::PageFiles)?;
        let token = Token::read(token).map_err(WebError::from).map_err(ListenError::PageFiles)?;
        let listener = StdListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        Ok(Self {
            listener: TlsListener::new(listener, Arc::clone(&certificate)),
            certificate,
            gate: Gate::new(token),
            access: *access,
        })
    }

    /// Answers with `router` until `shutdown` is over.
    pub(super) async fn serve(self, router: Router, shutdown: impl Future<Output = ()>) {
        let Self { listener, certificate, gate, access } = self;
        let router = router.layer(from_fn_with_state(gate.clone(), only_who_is_known)).merge(
            Router::new().route("/login", post(log_in)).route("/logout", post(log_out)).with_state(gate),
        );
        let router = super::api::guarded(router);
        // The first arm never ends.
        tokio::select! {
            () = certificate.follow() => {}
            () = serving::serve(&listener, router, access, CLIENTS, shutdown) => {}
        }
    }
}

//! The address on which a Prometheus is answered: figures and nothing else, without encryption, to anybody who can connect
//! and is no other site's page.

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::get;
use tokio::net::TcpListener;

use super::guard::only_scrapers;
use super::listening::ListenError;
use super::metrics::{Figures, scrape};
use crate::access::Access;
use crate::serving;

/// Connections at a time. A scraper needs one.
const CLIENTS: usize = 16;
/// No request has a body.
const MAX_BODY: usize = 0;

/// The bound address.
#[derive(Debug)]
pub(super) struct Scraped {
    listener: TcpListener,
}

impl Scraped {
    /// Listens on `address`. Must be called on a runtime.
    pub(super) fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Metrics { address, source };
        let listener = StdListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        Ok(Self { listener: TcpListener::from_std(listener).map_err(refused)? })
    }

    /// Answers until `shutdown` is over.
    pub(super) async fn serve(self, figures: Figures, shutdown: impl Future<Output = ()>) {
        let router = Router::new()
            .route("/metrics", get(scrape))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn(only_scrapers))
            .with_state(figures);
        serving::serve(&self.listener, router, Access::ReadOnly, CLIENTS, shutdown).await;
    }
}

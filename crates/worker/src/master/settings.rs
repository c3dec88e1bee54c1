//! Where a host's master is, and who the host is to it.

use std::net::SocketAddr;
use std::sync::Arc;

use master_protocol::drivers::{DialError, PlainTcp, WorkerTransport, reach};
use master_protocol::tls::{CredentialStore, TlsError, TlsFiles};
use master_protocol::wire::{InvalidWorkerId, WorkerId};
use thiserror::Error;

/// A master, and this host's part in it.
#[derive(Clone, Debug)]
pub struct MasterSettings {
    /// The master: host and port.
    pub(super) address: String,
    /// This host's name.
    pub(super) worker: WorkerId,
    /// How it is reached.
    pub(super) transport: WorkerTransport,
}

/// Why a master cannot be spoken with.
#[derive(Debug, Error)]
pub enum MasterSettingsError {
    /// This host has no name that a master could know it by.
    #[error("this host cannot be named to its master")]
    Name(#[from] InvalidWorkerId),
    /// The certificate's name is none of a worker.
    #[error("this host's certificate names no worker: a DNS name in lower case is accepted")]
    NoName,
    /// The certificates cannot be used.
    #[error("the certificates for the master cannot be used")]
    Certificates(#[source] TlsError),
}

impl MasterSettings {
    /// The master at `address`, with certificates on both sides: this host's name is the one in its certificate, the
    /// master's must be `server_name`. Reads `files`, which blocks as long as their disk lets it. A key that does not belong
    /// to the certificate is waited for: there is no link before it does.
    ///
    /// # Errors
    /// The files cannot be used, or the certificate's name is none of a worker.
    pub fn tls(address: String, server_name: String, files: &TlsFiles) -> Result<Self, MasterSettingsError> {
        let opened = CredentialStore::open_unmatched(files.clone());
        let (credentials, facts) = opened.map_err(MasterSettingsError::Certificates)?;
        let worker = facts.worker().ok_or(MasterSettingsError::NoName)?;
        Ok(Self {
            address,
            worker,
            transport: WorkerTransport::Tls { credentials: Arc::new(credentials), server_name },
        })
    }

    /// The master at `address` without TLS, for a host that calls itself `worker`.
    ///
    /// # Errors
    /// That is no name of a worker.
    pub fn plain(address: String, worker: &str, where_to: PlainTcp) -> Result<Self, MasterSettingsError> {
        Ok(Self { address, worker: worker.parse()?, transport: WorkerTransport::Plain(where_to) })
    }

    /// A master on this host, without TLS, for a host that is called as its kernel says.
    pub(crate) fn on_loopback(address: SocketAddr) -> Result<Self, MasterSettingsError> {
        Self::plain(address.to_string(), &host_name(), PlainTcp::Loopback)
    }

    /// The master: host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the master can be reached now; see [`master_protocol::drivers::reach`]. Returns the address that answered.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn reach(&self) -> Result<SocketAddr, DialError> {
        reach(&self.address, &self.transport).await
    }

    /// What this host calls itself.
    pub fn worker(&self) -> &str {
        self.worker.as_str()
    }
}

/// This host's name in lower case, as its kernel says it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

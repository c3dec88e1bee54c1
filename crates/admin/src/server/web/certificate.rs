//! The certificate that is shown, read again when its files are others: renewed ones are taken without a restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use master_protocol::tls::Identity;
use rustls::ServerConfig;
use tokio::task::spawn_blocking;
use tracing::info;

use super::super::listening::{Door, ListenError, Listening};
use super::WebError;

/// The newest usable certificate.
#[derive(Debug)]
pub(super) struct ServedCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// Held while files are read, so that they are read once; nobody awaits meanwhile.
    newest: Mutex<Newest>,
    /// Where it is told that newer files cannot be used.
    listening: Listening,
}

#[derive(Debug)]
struct Newest {
    config: Arc<ServerConfig>,
    /// What the files were when they were read last, whether they could be used or not.
    seen: Option<[FileState; 2]>,
}

/// Tells one content of a file from the next: inode, size, time.
type FileState = (u64, u64, i64, i64);

impl ServedCertificate {
    /// Reads the files for the first time. Blocks.
    pub(super) fn open(certificate: PathBuf, key: PathBuf, listening: Listening) -> Result<Self, WebError> {
        let seen = states(&certificate, &key);
        let config = read(&certificate, &key)?;
        Ok(Self { certificate, key, newest: Mutex::new(Newest { config, seen }), listening })
    }

    /// What a new connection is opened with. Blocks. Where newer files cannot be used the earlier ones stay: whoever
    /// replaces both replaces one first.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = states(&self.certificate, &self.key);
        if seen != newest.seen {
            newest.seen = seen;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    newest.config = config;
                    self.listening.is_open(Door::Certificate);
                }
                Err(problem) => {
                    self.listening.is_closed(Door::Certificate, &ListenError::Certificate(problem));
                }
            }
        }
        Arc::clone(&newest.config)
    }

    /// Looks at the files every now and then, so that ones that cannot be used are told of before somebody connects. Never
    /// returns.
    pub(super) async fn follow(self: &Arc<Self>) {
        loop {
            self.listening.pause().await;
            let looking = Arc::clone(self);
            // A look that broke off is made again after the next pause.
            let _ = spawn_blocking(move || looking.current()).await;
        }
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, WebError> {
    let identity = Identity::load(certificate, key)?;
    let config = identity.http_server()?;
    info!(certificate = %identity.facts(), "the page's certificate was read");
    Ok(Arc::new(config))
}

fn states(certificate: &Path, key: &Path) -> Option<[FileState; 2]> {
    let state = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    Some([state(certificate)?, state(key)?])
}

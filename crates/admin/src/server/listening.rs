//! Addresses that the worker listens on as soon as it can: one that is in use, or not there yet, or whose files cannot be
//! used, keeps nobody from running VMs. It is tried again, and told of until it works.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;
use tracing::{info, warn};
use vm_model::error_chain;

use super::BindError;
use super::web::WebError;

/// What does not work is tried again after so long.
pub(super) const PAUSE: Duration = Duration::from_secs(3);

/// What clients come to, apart from the admin sockets at their first binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Door {
    /// The admin socket.
    Socket,
    /// The one for reading only.
    ReadSocket,
    /// The admin socket, for its group.
    Group,
    /// The one for reading only, for its group.
    ReadGroup,
    /// Where a Prometheus is answered.
    Metrics,
    /// Where the page is shown.
    Page,
    /// The page's renewed certificate.
    Certificate,
}

impl Door {
    /// The same socket, for its group.
    pub(super) fn of_group(self) -> Self {
        match self {
            Self::Socket | Self::Group => Self::Group,
            Self::ReadSocket | Self::ReadGroup => Self::ReadGroup,
            Self::Metrics | Self::Page | Self::Certificate => self,
        }
    }

    /// What is said when it works again.
    fn mended(self) -> &'static str {
        match self {
            Self::Socket => "the admin socket is in its place again",
            Self::ReadSocket => "the admin socket for reading is in its place again",
            Self::Group => "the admin socket is for its group now",
            Self::ReadGroup => "the admin socket for reading is for its group now",
            Self::Metrics => "metrics are given at metrics.listen now",
            Self::Page => "the page is shown at web.listen now",
            Self::Certificate => "the page's changed certificate is in use now",
        }
    }
}

/// Why clients cannot come in somewhere.
#[derive(Debug, Error)]
pub(super) enum ListenError {
    /// The admin socket was taken away, and another cannot be made.
    #[error("the admin socket was removed and cannot be made again")]
    Socket(#[source] BindError),
    /// The host has no such group.
    #[error(
        "an admin socket is for root alone: this host knows no group {group:?} (admin.group or admin.read_group; `getent group` lists \
         them, and a number is accepted too)"
    )]
    Group {
        /// The group that it is to have.
        group: String,
    },
    /// The host refuses the address on which a scraper is answered.
    #[error("metrics are given nowhere: cannot listen on {address} (metrics.listen)")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refuses the address on which the page is shown.
    #[error("the page is not shown: cannot listen on {address} (web.listen)")]
    Page {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the page's address needs cannot be used.
    #[error("the page is not shown: web.token_file, web.certificate or web.key cannot be used")]
    PageFiles(#[source] WebError),
    /// Newer files cannot be used.
    #[error("the page's changed certificate cannot be used, and the one before is shown")]
    Certificate(#[source] WebError),
    /// The attempt broke off.
    #[error("an attempt to listen broke off")]
    Lost(#[source] JoinError),
}

/// Where clients cannot come in at the moment, and why. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Listening(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for a look or a change.
    problems: Mutex<BTreeMap<Door, String>>,
    again: Notify,
}

impl Listening {
    /// What does not work, each in a sentence.
    pub fn problems(&self) -> Vec<String> {
        self.0.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Has what does not work tried again at once: what was wrong may be mended.
    pub fn try_again(&self) {
        self.0.again.notify_waiters();
    }

    /// Tells that `door` is closed, in the log only where that is new.
    pub(super) fn is_closed(&self, door: Door, problem: &ListenError) {
        let told = error_chain(problem);
        let before =
            self.0.problems.lock().unwrap_or_else(PoisonError::into_inner).insert(door, told.clone());
        if before.as_ref() != Some(&told) {
            warn!("{told}; it is looked at again every {} seconds", PAUSE.as_secs());
        }
    }

    /// Tells that `door` is open, in the log where it was not.
    pub(super) fn is_open(&self, door: Door) {
        if self.0.problems.lock().unwrap_or_else(PoisonError::into_inner).remove(&door).is_some() {
            info!("{}", door.mended());
        }
    }

    /// Returns when what does not work is to be tried again. Cancel-safe.
    pub(super) async fn pause(&self) {
        // Whether it was asked for or the time is over, the same follows.
        let _ = timeout(PAUSE, self.0.again.notified()).await;
    }
}

type Bind<T> = Arc<dyn Fn() -> Result<T, ListenError> + Send + Sync>;

/// An address that is listened on as soon as that can be.
pub(super) struct Address<T> {
    door: Door,
    bind: Bind<T>,
    /// There where the first attempt succeeded.
    bound: Option<T>,
    listening: Listening,
}

impl<T: Send + 'static> Address<T> {
    /// Tries `bind` once. Blocks while it does; must be called on a runtime.
    pub(super) fn open(
        listening: &Listening,
        door: Door,
        bind: impl Fn() -> Result<T, ListenError> + Send + Sync + 'static,
    ) -> Self {
        let listening = listening.clone();
        let bound = bind().map_err(|problem| listening.is_closed(door, &problem)).ok();
        Self { door, bind: Arc::new(bind), bound, listening }
    }

    /// What listens, as soon as it does.
    pub(super) async fn bound(self) -> T {
        let Self { door, bind, mut bound, listening } = self;
        loop {
            if let Some(bound) = bound {
                listening.is_open(door);
                return bound;
            }
            listening.pause().await;
            let bind = Arc::clone(&bind);
            let attempt = spawn_blocking(move || bind()).await;
            bound = attempt
                .unwrap_or_else(|lost| Err(ListenError::Lost(lost)))
                .map_err(|problem| listening.is_closed(door, &problem))
                .ok();
        }
    }
}

impl<T> fmt::Debug for Address<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bound = self.bound.is_some();
        formatter.debug_struct("Address").field("door", &self.door).field("is_bound", &is_bound).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_told_of_until_it_is_free() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = holder.local_addr().expect("bound");
        let listening = Listening::default();
        let bind =
            move || TcpListener::bind(address).map_err(|source| ListenError::Metrics { address, source });
        let waiting = Address::open(&listening, Door::Metrics, bind);
        let told = listening.problems();
        assert_eq!(told.len(), 1, "{told:?}");
        for words in [address.to_string().as_str(), "metrics.listen", "in use"] {
            assert!(told[0].contains(words), "{words} is not in {told:?}");
        }
        let waiting = tokio::spawn(waiting.bound());
        // The attempt after the pause fails as well, or finds it free.
        drop(holder);
        let bound = waiting.await.expect("bound");
        assert_eq!(bound.local_addr().expect("bound"), address);
        assert_eq!(listening.problems(), [""; 0]);
    }
}

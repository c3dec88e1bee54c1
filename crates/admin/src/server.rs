//! The serving end: sockets, and what is answered on them.

mod api;
mod assigning;
mod audit;
mod console;
mod dump;
mod events;
mod extract;
mod guard;
mod history;
mod images;
mod kept;
mod listening;
mod metrics;
mod names;
mod operations;
mod orders;
mod power;
mod query;
mod refusal;
mod running;
mod scraped;
mod socket;
mod status;
mod stay;
mod vm_log;
mod vms;
mod web;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use worker::node::NodeMessage;
use worker::vms::VmManager;

pub use self::api::{openapi, openapi_text};
use self::kept::KeptSocket;
pub use self::listening::Listening;
use self::listening::{Address, Door};
use self::running::Operations;
use self::scraped::Scraped;
use self::socket::BoundSocket;
pub use self::socket::{BindError, SocketGroup};
use self::web::Web;
pub use self::web::{WebError, WebSettings};
use crate::access::Access;
use crate::{READ_SOCKET_NAME, SOCKET_NAME, StatusView, serving};

/// Larger requests are refused.
const MAX_BODY: usize = 1 << 20;
/// Clients of the socket for reading only, for each four of the other one.
const READERS_PART: usize = 4;

/// Tells how the worker is now. Called for each request for it; it must not wait for anything.
pub type StatusSource = Arc<dyn Fn() -> StatusView + Send + Sync>;

/// Where the sockets are, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// The directory that they lie in.
    pub directory: PathBuf,
    /// Whose members may do everything; the process' own group where it is absent.
    pub group: Option<SocketGroup>,
    /// Whose members may look; there is no socket for that where it is absent.
    pub read_group: Option<SocketGroup>,
    /// Where a Prometheus is answered over TCP, by anybody who can connect; nowhere where it is absent.
    pub metrics: Option<SocketAddr>,
    /// Where the page is shown over TLS; nowhere where it is absent.
    pub web: Option<WebSettings>,
}

impl SocketSettings {
    /// One socket in `directory`, for the process' own user and group.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), group: None, read_group: None, metrics: None, web: None }
    }

    /// Checks that this host has the groups. Nothing is made.
    ///
    /// # Errors
    /// The first one that it has not.
    pub fn check(&self) -> Result<(), BindError> {
        let groups = [&self.group, &self.read_group].into_iter().flatten();
        groups.map(SocketGroup::resolve).try_for_each(|found| found.map(drop))
    }
}

/// Bound sockets, ready to serve. The socket files go with this value.
#[derive(Debug)]
pub struct AdminServer {
    full: KeptSocket,
    read_only: Option<KeptSocket>,
    scraped: Option<Address<Scraped>>,
    web: Option<Address<Web>>,
    listening: Listening,
}

/// What is served.
pub struct Served {
    /// The VMs.
    pub vm_manager: Arc<VmManager>,
    /// Where the reconciler is asked.
    pub node: mpsc::Sender<NodeMessage>,
    /// How the worker itself is.
    pub status: StatusSource,
}

impl AdminServer {
    /// Binds the sockets; ones on which nobody answers are taken over. Addresses that cannot be bound are tried again while it
    /// serves. Must be called on a runtime.
    ///
    /// # Errors
    /// Somebody answers at a socket, something else is there, or the host refuses. Where there is no such group, the socket is for
    /// its owner alone, until there is.
    pub fn bind(settings: &SocketSettings) -> Result<Self, BindError> {
        let SocketSettings { directory, group, read_group, metrics, web } = settings;
        let listening = Listening::default();
        let bind = |path: PathBuf, group: Option<&SocketGroup>, door| {
            let socket = BoundSocket::bind(&path, group)?;
            Ok(KeptSocket::new(socket, (path, group.cloned()), (door, listening.clone())))
        };
        let full = bind(directory.join(SOCKET_NAME), group.as_ref(), Door::Socket)?;
        let read_path = directory.join(READ_SOCKET_NAME);
        let read_only = match read_group {
            Some(group) => Some(bind(read_path, Some(group), Door::ReadSocket)?),
            None => {
                BoundSocket::clear(&read_path)?;
                None
            }
        };
        let scraped =
            metrics.map(|address| Address::open(&listening, Door::Metrics, move || Scraped::bind(address)));
        let web = web.clone().map(|web| {
            let told = listening.clone();
            Address::open(&listening, Door::Page, move || Web::bind(&web, &told))
        });
        Ok(Self { full, read_only, scraped, web, listening })
    }

    /// Where clients cannot come in while it serves, and why.
    pub fn listening(&self) -> Listening {
        self.listening.clone()
    }

    /// Answers until `shutdown` is over, at most `limit` clients at a time; then requests under way are finished.
    pub async fn serve(
        self,
        served: Served,
        limit: usize,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let Served { vm_manager, node, status } = served;
        let (ending, ended) = watch::channel(());
        let operations = Arc::new(Operations::default());
        let consoles = Arc::default();
        let figures = metrics::Figures {
            vm_manager: Arc::clone(&vm_manager),
            node: node.clone(),
            status: Arc::clone(&status),
        };
        let answers = api::router(Answers {
            vm_manager,
            status,
            node,
            figures: figures.clone(),
            operations,
            consoles,
            ended: ended.clone(),
        });
        let Self { full, read_only, scraped, web, listening: _ } = self;
        let until_ended =
            |mut ended: watch::Receiver<()>| async move { while ended.changed().await.is_ok() {} };
        let router = api::guarded(answers.clone());
        let readers = async {
            if let Some(socket) = &read_only {
                let limit = (limit / READERS_PART).max(1);
                let until = until_ended(ended.clone());
                serving::serve(socket, router.clone(), Access::ReadOnly, limit, until).await;
            }
        };
        let scraper = async {
            if let Some(scraped) = before(until_ended(ended.clone()), scraped).await {
                scraped.serve(figures, until_ended(ended.clone())).await;
            }
        };
        let page = async {
            if let Some(web) = before(until_ended(ended.clone()), web).await {
                web.serve(answers.clone(), until_ended(ended.clone())).await;
            }
        };
        let all = serving::serve(&full, router.clone(), Access::Full, limit, until_ended(ended.clone()));
        let end = async move {
            shutdown.await;
            // Streams end first: the servers wait for them.
            drop(ending);
        };
        tokio::join!(all, readers, scraper, page, end);
    }
}

/// What listens at `address`, where that is before `end`.
async fn before<T: Send + 'static>(end: impl Future<Output = ()>, address: Option<Address<T>>) -> Option<T> {
    let address = address?;
    tokio::select! {
        () = end => None,
        bound = address.bound() => Some(bound),
    }
}

/// Where answers come from.
#[derive(Clone)]
struct Answers {
    vm_manager: Arc<VmManager>,
    status: StatusSource,
    /// Where the reconciler is asked.
    node: mpsc::Sender<NodeMessage>,
    /// What a scraper reads.
    figures: metrics::Figures,
    /// What takes a while.
    operations: Arc<Operations>,
    /// What clients that are attached to consoles share.
    consoles: Arc<console::Consoles>,
    /// Closed when the worker ends: what would be answered without an end, ends then.
    ended: watch::Receiver<()>,
}

//! Getting store paths that VMs need and this host lacks from binary caches, where the host's settings name some.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use binary_cache::{FetchError, FetchSettings, Fetched, Fetcher, Progress, Store, settle};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as TurnLock, watch};
use tokio::time::interval;
use tracing::info;
use vm_model::{Bytes, EventKind, FailureKind, FailureReason, Fetching as FetchingPath, StoreName, VmId};

use crate::failure::{chain, reason};
use crate::supervisor::{GivenUp, HostContext};

/// How often it is looked whether anybody still waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is told how far a fetch is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What fetches. Several VMs that need one path wait for one fetch of it.
pub(crate) struct Fetching {
    fetcher: Option<Fetcher>,
    /// The stores that may be fetched into.
    stores: Vec<PathBuf>,
    runtime: Handle,
    /// Paths that are being fetched. Locked for moments; the turns inside are held for as long as a fetch takes.
    turns: Mutex<BTreeMap<StoreName, Weak<Turn>>>,
}

/// One path that is being fetched.
struct Turn {
    /// Held by who fetches it.
    lock: TurnLock<()>,
    /// How far that is, for all who wait.
    progress: watch::Sender<Progress>,
}

impl Fetching {
    /// Fetches by `settings`, or nothing, into `stores`, on `runtime`.
    pub(crate) fn new(settings: Option<FetchSettings>, stores: Vec<PathBuf>, runtime: Handle) -> Self {
        Self { fetcher: settings.map(Fetcher::new), stores, runtime, turns: Mutex::default() }
    }

    /// Makes sure that `path` and all that it needs is there, where it is missing and caches are known. Blocks for as long as
    /// the download takes, unless it is given up, and tells `show` now and then how far it is; belongs on a thread of the VM's
    /// own.
    ///
    /// # Errors
    /// It cannot be had. A path that is no store path of a store that is fetched into is left to whoever opens it.
    pub(crate) fn ensure(
        &self,
        host: &HostContext,
        (vm, path): (&VmId, &Path),
        given_up: &GivenUp,
        show: &dyn Fn(FetchingPath),
    ) -> Result<(), FailureReason> {
        let Some((root, name)) = parts(path) else { return Ok(()) };
        if !self.stores.iter().any(|known| known == root) {
            return Ok(());
        }
        // The VM's root is there: from here on the path is collected no more.
        settle(root);
        let is_missing = path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let (Some(fetcher), true) = (&self.fetcher, is_missing) else { return Ok(()) };
        let store = Arc::new(Store::open(root).map_err(|problem| reason(FailureKind::Host, &problem))?);
        let turn = self.turn(&name);
        let events = |kind| host.events.record(Some(vm), kind);
        let fetch = || {
            self.runtime.block_on(async {
                // Each arm may be dropped at any point: what is under way is given up.
                tokio::select! {
                    fetched = fetch(fetcher, (path, &name), &store, &turn, &events) => fetched,
                    () = until(given_up) => Ok(()),
                    never = tell(path, &turn, show) => match never {},
                }
            })
        };
        let fetched = match fetch() {
            Err(problem) if problem.wanted_free().is_some_and(|free| host.make_room_in(root, free)) => {
                fetch()
            }
            fetched => fetched,
        };
        fetched.map_err(|problem| {
            let chain = chain(&problem);
            events(EventKind::FetchFailed { store_path: path.to_owned(), problem: chain });
            told(&problem)
        })
    }

    /// The stores that may be fetched into.
    pub(crate) fn stores(&self) -> &[PathBuf] {
        &self.stores
    }

    fn turn(&self, name: &StoreName) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let progress = watch::Sender::new(Progress::default());
        let turn = Arc::new(Turn { lock: TurnLock::new(()), progress });
        turns.insert(name.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// The store of a path, and its name there.
fn parts(path: &Path) -> Option<(&Path, StoreName)> {
    Some((path.parent()?, path.file_name()?.to_str()?.parse().ok()?))
}

async fn fetch(
    fetcher: &Fetcher,
    (path, name): (&Path, &StoreName),
    store: &Arc<Store>,
    turn: &Turn,
    events: &dyn Fn(EventKind),
) -> Result<(), FetchError> {
    let _turn = turn.lock.lock().await;
    // Who comes second finds everything there.
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    info!(%name, "a store path that is not there is fetched");
    events(EventKind::FetchBegun { store_path: path.to_owned() });
    let begun = Instant::now();
    let Fetched { paths, bytes: size } = fetcher.fetch(name, store, &turn.progress).await?;
    info!(%name, paths, %size, "the store path was fetched");
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    events(EventKind::FetchFinished { store_path: path.to_owned(), paths, size, milliseconds });
    Ok(())
}

/// Tells how far the fetch of `path` is, as long as this is polled.
async fn tell(path: &Path, turn: &Turn, show: &dyn Fn(FetchingPath)) -> Infallible {
    let mut ticks = interval(TELL_EVERY);
    let mut before = 0;
    loop {
        ticks.tick().await;
        let Progress { paths, bytes, bytes_done, .. } = *turn.progress.borrow();
        show(FetchingPath {
            store_path: path.to_owned(),
            fetched: Bytes::new(bytes_done),
            size: (paths > 0).then_some(Bytes::new(bytes)),
            per_second: Bytes::new(bytes_done.saturating_sub(before)),
        });
        before = bytes_done;
    }
}

async fn until(given_up: &GivenUp) {
    let mut looks = interval(LOOK_EVERY);
    while !given_up.is_set() {
        looks.tick().await;
    }
}

/// Why a VM waits for its artifact. What a network or a cache lacks now may come; a cache that is not to be believed now may be
/// mended, or have its paths signed.
fn told(problem: &FetchError) -> FailureReason {
    let transient = match problem {
        FetchError::NotThere { .. }
        | FetchError::Transport { .. }
        | FetchError::Description { .. }
        | FetchError::OtherPath { .. }
        | FetchError::Untrusted { .. }
        | FetchError::NoSpace { .. }
        | FetchError::Damaged { .. }
        | FetchError::Unwritable { .. }
        | FetchError::Store(_)
        | FetchError::Panicked { .. } => true,
        FetchError::TooMuch { .. } | FetchError::Circle { .. } => false,
    };
    FailureReason { transient, ..reason(FailureKind::Artifact, problem) }
}

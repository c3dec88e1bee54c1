//! What a thread that makes a VM's next machine ready is told, and tells.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vm_model::{Fetching, Verifying};

use super::given_up::GivenUp;

/// A fetch or a hashing that takes longer is shown, and how far it is this often.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// What takes long just now of making a machine ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LongWork {
    Fetching(Fetching),
    Verifying(Verifying),
}

/// What a thread that makes a machine ready is told, and tells.
#[derive(Debug)]
pub(super) struct StageWork {
    given_up: GivenUp,
    long: watch::Sender<Option<LongWork>>,
    shown: Cell<Instant>,
}

impl StageWork {
    /// What stops when `given_up` is set, and where its news come.
    pub(super) fn new(given_up: GivenUp) -> (Self, watch::Receiver<Option<LongWork>>) {
        let (long, news) = watch::channel(None);
        (Self { given_up, long, shown: Cell::new(Instant::now()) }, news)
    }

    /// Set when nobody waits for the machine any more.
    pub(super) fn given_up(&self) -> &GivenUp {
        &self.given_up
    }

    /// Tells now and then what takes long.
    pub(super) fn show(&self, long: Option<LongWork>) {
        let is_news = match &long {
            Some(_) => self.shown.get().elapsed() >= SHOWN_EVERY,
            None => self.long.borrow().is_some(),
        };
        if is_news {
            self.shown.set(Instant::now());
            self.long.send_replace(long);
        }
    }
}

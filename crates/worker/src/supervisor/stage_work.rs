//! What a thread that makes a VM's next machine ready is told, and tells.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vm_model::Verifying;

use super::given_up::GivenUp;

/// A hashing that takes longer is shown, and how far it is this often.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// What a thread that makes a machine ready is told, and tells.
#[derive(Debug)]
pub(super) struct StageWork {
    given_up: GivenUp,
    verifying: watch::Sender<Option<Verifying>>,
    shown: Cell<Instant>,
}

impl StageWork {
    /// What stops when `given_up` is set, and where its news come.
    pub(super) fn new(given_up: GivenUp) -> (Self, watch::Receiver<Option<Verifying>>) {
        let (verifying, news) = watch::channel(None);
        (Self { given_up, verifying, shown: Cell::new(Instant::now()) }, news)
    }

    /// Set when nobody waits for the machine any more.
    pub(super) fn given_up(&self) -> &GivenUp {
        &self.given_up
    }

    /// Tells now and then what is being hashed.
    pub(super) fn show(&self, verifying: Option<Verifying>) {
        let is_news = match &verifying {
            Some(_) => self.shown.get().elapsed() >= SHOWN_EVERY,
            None => self.verifying.borrow().is_some(),
        };
        if is_news {
            self.shown.set(Instant::now());
            self.verifying.send_replace(verifying);
        }
    }
}

//! The link to a master: what it assigns goes to the node, and how this host stands goes back.
//!
//! ```text
//!  master ──assignment──▶ WorkerLink ──offer──▶ offers.rs ──NodeMessage──▶ node
//!         ◀──report─────  (dials, resumes)  ◀── state.rs ◀── changes of VMs, of the node's status, of measurements
//! ```
//!
//! Nothing here waits for the master: the link tells the newest state when the master is ready for it, and VMs know nothing
//! of either. What goes over the wire, and how the link dials again, is `master-protocol`'s.

mod connections;
mod greeting;
mod offers;
mod settings;
mod state;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use master_protocol::drivers::{BackoffLimits, WorkerLink};
use master_protocol::os_random;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use vm_model::SourceKind;

pub use master_protocol::drivers::LinkStatus;
pub use settings::{MasterSettings, MasterSettingsError, host_name};

use self::offers::Offers;
use crate::node::{NodeMessage, listen_to};
use crate::vms::VmManager;

/// How often measurements are looked at although nothing has changed.
const MEASURE: Duration = Duration::from_secs(5);
/// Changes that come together are told together.
const SETTLE: Duration = Duration::from_millis(50);

/// A host's link to its master.
pub struct MasterLink {
    vm_manager: Arc<VmManager>,
    messages: mpsc::Sender<NodeMessage>,
    status: watch::Sender<LinkStatus>,
    settings: MasterSettings,
}

impl MasterLink {
    /// A link with these `settings` that tells of `vm_manager` and hands assignments to the node behind `messages`.
    pub fn new(
        vm_manager: Arc<VmManager>,
        messages: mpsc::Sender<NodeMessage>,
        settings: MasterSettings,
    ) -> Self {
        Self { vm_manager, messages, status: watch::Sender::default(), settings }
    }

    /// Whom it links.
    pub fn settings(&self) -> &MasterSettings {
        &self.settings
    }

    /// How the link is, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.subscribe()
    }

    /// Keeps the link until `shutdown` is over or the node has ended.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { vm_manager, messages, status, settings } = self;
        let (hello, greeting) = watch::channel(greeting::hello(&vm_manager, settings.worker.clone()));
        let (newest, state) = watch::channel(Arc::new(state::observe(&vm_manager)));
        let (offers, offered) = mpsc::channel(1);
        let connections = connections::note(status.subscribe(), &vm_manager);
        let link = WorkerLink {
            master: settings.address,
            transport: settings.transport,
            backoff: BackoffLimits::default(),
            random: os_random,
            hello: greeting,
            state,
            offers,
            status,
        };
        let worker = settings.worker;
        let telling = async {
            let mut changes = vm_manager.watch_changes();
            let mut node = vm_manager.node_status();
            let mut measure = interval(MEASURE);
            measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut settle = SETTLE;
            loop {
                // All arms are cancel-safe. The senders live as long as the manager.
                tokio::select! {
                    Ok(()) = changes.changed() => tokio::time::sleep(settle).await,
                    Ok(()) = node.changed() => tokio::time::sleep(settle).await,
                    _ = measure.tick() => {}
                }
                changes.borrow_and_update();
                node.borrow_and_update();
                let begun = Instant::now();
                newest.send_replace(Arc::new(state::observe(&vm_manager)));
                hello.send_replace(greeting::hello(&vm_manager, worker.clone()));
                // However many VMs there are and however often they change, a tenth of the time goes into telling.
                settle = SETTLE.max(begun.elapsed() * 9);
            }
        };
        // Each ends with the link, or ends it.
        tokio::select! {
            () = connections => {}
            () = link.run(shutdown) => {}
            () = listen_to(Offers::new(offered), messages) => {}
            () = telling => {}
        }
    }
}

/// Who may say what should run on a host with a master.
pub(crate) fn sources() -> BTreeSet<SourceKind> {
    BTreeSet::from([SourceKind::Master, SourceKind::Local])
}

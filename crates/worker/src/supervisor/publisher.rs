//! What is told of a VM: the one place through which its supervisor changes it.

use std::sync::Arc;

use tokio::sync::watch;
use vm_model::{EventKind, Timestamp, VmInfo, refresh_conditions};

use crate::events::{EventLog, Outline};

/// Counts changes of what is told of any VM. Whoever wants to hear of all of them watches this and looks then.
#[derive(Clone, Debug)]
pub(crate) struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Changes {
    /// The count, now and whenever something has changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Something has changed.
    pub(crate) fn note(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Tells of one VM. After each change its conditions are up to date, what happened is in the log of events, and whoever
/// watches all VMs is told.
#[derive(Debug)]
pub(super) struct Publisher {
    info: watch::Sender<VmInfo>,
    changes: Changes,
    events: Arc<EventLog>,
}

impl Publisher {
    pub(super) fn new(info: watch::Sender<VmInfo>, changes: Changes, events: Arc<EventLog>) -> Self {
        let publisher = Self { info, changes, events };
        publisher.send_modify(|_| {});
        publisher
    }

    /// What is told now.
    pub(super) fn borrow(&self) -> watch::Ref<'_, VmInfo> {
        self.info.borrow()
    }

    /// Something happened to the VM that does not show in what is told of it.
    pub(super) fn happened(&self, event: EventKind) {
        let id = self.info.borrow().id.clone();
        self.events.record(Some(&id), event);
    }

    /// Changes what is told.
    pub(super) fn send_modify(&self, change: impl FnOnce(&mut VmInfo)) {
        self.send_if_modified(|info| {
            change(info);
            true
        });
    }

    /// Changes what is told; `change` answers whether it did.
    pub(super) fn send_if_modified(&self, change: impl FnOnce(&mut VmInfo) -> bool) {
        let mut happened = Vec::new();
        let changed = self.info.send_if_modified(|info| {
            let before = Outline::of(info);
            let changed = change(info);
            if changed {
                refresh_conditions(info, Timestamp::now());
                happened = before.changes(info);
            }
            changed
        });
        happened.into_iter().for_each(|event| self.happened(event));
        if changed {
            self.changes.note();
        }
    }
}

impl Drop for Publisher {
    /// The VM is gone.
    fn drop(&mut self) {
        self.changes.note();
    }
}

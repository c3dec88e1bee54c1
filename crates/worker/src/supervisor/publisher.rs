//! What is told of a VM: the one place through which its supervisor changes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::{StartStep, WorkerMeters};
use tokio::sync::watch;
use vm_model::{EventKind, Timestamp, VmInfo, VmStatus, VmTimings, refresh_conditions};

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
    meters: Arc<WorkerMeters>,
    /// When the phase began that is told now. Held for moments, by the supervisor alone.
    phase_since: Mutex<Instant>,
}

impl Publisher {
    pub(super) fn new(
        info: watch::Sender<VmInfo>,
        changes: Changes,
        events: Arc<EventLog>,
        meters: Arc<WorkerMeters>,
    ) -> Self {
        let publisher = Self { info, changes, events, meters, phase_since: Mutex::new(Instant::now()) };
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

    /// Tells of a machine that ran before this worker did: what is new in `change` did not happen now, and is not measured.
    pub(super) fn begin_with(&self, change: impl FnOnce(&mut VmInfo)) {
        self.apply(Measured::No, |info| {
            change(info);
            true
        });
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
        self.apply(Measured::Yes, change);
    }

    fn apply(&self, measured: Measured, change: impl FnOnce(&mut VmInfo) -> bool) {
        let mut happened = Vec::new();
        let changed = self.info.send_if_modified(|info| {
            let before = Outline::of(info);
            let (status, timings) = (info.status.clone(), info.timings);
            let changed = change(info);
            if changed {
                refresh_conditions(info, Timestamp::now());
                happened = before.changes(info);
                self.measure(&status, &timings, info, measured);
            }
            changed
        });
        happened.into_iter().for_each(|event| self.happened(event));
        if changed {
            self.changes.note();
        }
    }

    /// Takes note of how long a phase and steps of a start took that are over now.
    fn measure(&self, status: &VmStatus, timings: &VmTimings, now: &VmInfo, measured: Measured) {
        if status.phase_name() != now.status.phase_name() {
            let mut since = self.phase_since.lock().unwrap_or_else(PoisonError::into_inner);
            let lasted = std::mem::replace(&mut *since, Instant::now()).elapsed();
            if measured == Measured::Yes {
                self.meters.phase_left(status, lasted);
            }
        }
        if measured == Measured::No {
            return;
        }
        let steps = [
            (StartStep::Artifact, timings.artifact, now.timings.artifact),
            (StartStep::Disks, timings.disks, now.timings.disks),
            (StartStep::Network, timings.network, now.timings.network),
            (StartStep::FirstEntry, timings.first_entry, now.timings.first_entry),
            (StartStep::FirstConsoleByte, timings.first_console_byte, now.timings.first_console_byte),
        ];
        for (step, before, now) in steps {
            if let Some(took) = now.filter(|_| before != now) {
                self.meters.step_done(step, took);
            }
        }
    }
}

/// Whether what a change tells happens as it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measured {
    Yes,
    No,
}

impl Drop for Publisher {
    /// The VM is gone.
    fn drop(&mut self) {
        self.changes.note();
    }
}

//! A VM's record on disk, kept equal to what the VM is.

use std::sync::Arc;

use uuid::Uuid;
use vm_model::{Assignment, FailureKind, FailureReason};

use super::context::HostContext;
use crate::failure::reason;
use crate::records::VmRecord;

/// Whether a guest has switched itself off, so that it stays off until somebody starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It has not.
    Wanted,
    /// It has.
    SwitchedOff,
}

/// One VM's record.
#[derive(Debug)]
pub(super) struct Record {
    context: Arc<HostContext>,
    uuid: Uuid,
    /// What is on disk; `None` before anything is.
    kept: Option<VmRecord>,
}

impl Record {
    /// The record of a VM that has none yet.
    pub(super) fn new(context: Arc<HostContext>) -> Self {
        Self { context, uuid: Uuid::new_v4(), kept: None }
    }

    /// The record that was found on disk.
    pub(super) fn found(context: Arc<HostContext>, record: VmRecord) -> Self {
        Self { context, uuid: record.uuid, kept: Some(record) }
    }

    /// The machine's identity, drawn once in the VM's life.
    pub(super) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether the guest had switched itself off when the record was written.
    pub(super) fn power(&self) -> Power {
        match &self.kept {
            Some(VmRecord { powered_off: true, .. }) => Power::SwitchedOff,
            Some(_) | None => Power::Wanted,
        }
    }

    /// Puts this on stable storage, unless it is there.
    pub(super) async fn keep(&mut self, assignment: &Assignment, power: Power) -> Result<(), FailureReason> {
        let powered_off = power == Power::SwitchedOff;
        if let Some(kept) = &self.kept
            && kept.assignment == *assignment
            && kept.powered_off == powered_off
        {
            return Ok(());
        }
        let record = VmRecord { assignment: assignment.clone(), uuid: self.uuid, powered_off };
        let context = Arc::clone(&self.context);
        let saving = tokio::task::spawn_blocking(move || context.records.save(&record).map(|()| record));
        let saved = saving.await.map_err(|lost| reason(FailureKind::Machine, &lost))?;
        self.kept = Some(saved.map_err(|problem| reason(FailureKind::Host, &problem))?);
        Ok(())
    }
}

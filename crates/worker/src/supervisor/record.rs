//! A VM's record on disk, kept equal to what the VM is.

use std::sync::Arc;

use uuid::Uuid;
use vm_model::{FailureKind, FailureReason};

use super::context::HostContext;
use crate::failure::reason;
use crate::records::VmRecord;

/// One VM's record.
#[derive(Debug)]
pub(super) struct Record {
    context: Arc<HostContext>,
    /// What is on disk, or is to be there first.
    value: VmRecord,
    is_on_disk: bool,
}

impl Record {
    /// The record of a VM that has none yet.
    pub(super) fn new(context: Arc<HostContext>, value: VmRecord) -> Self {
        Self { context, value, is_on_disk: false }
    }

    /// The record that was found on disk.
    pub(super) fn found(context: Arc<HostContext>, value: VmRecord) -> Self {
        Self { context, value, is_on_disk: true }
    }

    /// The machine's identity, drawn once in the VM's life.
    pub(super) fn uuid(&self) -> Uuid {
        self.value.uuid
    }

    /// What is on stable storage; before the first update, what is to be.
    pub(super) fn value(&self) -> &VmRecord {
        &self.value
    }

    /// Puts the record as `change` leaves it on stable storage, unless it is there. On a failure it stays as it was.
    pub(super) async fn update(&mut self, change: impl FnOnce(&mut VmRecord)) -> Result<(), FailureReason> {
        let mut changed = self.value.clone();
        change(&mut changed);
        if self.is_on_disk && changed == self.value {
            return Ok(());
        }
        let context = Arc::clone(&self.context);
        let saving = tokio::task::spawn_blocking(move || context.records.save(&changed).map(|()| changed));
        let saved = saving.await.map_err(|lost| reason(FailureKind::Machine, &lost))?;
        self.value = saved.map_err(|problem| reason(FailureKind::Host, &problem))?;
        self.is_on_disk = true;
        Ok(())
    }
}

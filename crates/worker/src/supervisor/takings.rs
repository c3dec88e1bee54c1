//! What a start took of the host that its VM did not have before. A start that fails gives it back.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;
use vm_model::{FailureReason, VmId};

use super::context::HostContext;
use crate::failure::chain;

/// Taken by one start.
#[derive(Debug, Default)]
pub(super) struct Takings {
    /// Whether the VM had no address before.
    pub(super) addresses: bool,
    /// Copies of disks that were not there before.
    pub(super) disks: Vec<PathBuf>,
}

impl Takings {
    /// Gives back what a start that failed for `reason` took. Copied disks serve the next try, where there is one.
    /// Blocks.
    pub(super) fn give_back(self, context: &HostContext, id: &VmId, reason: &FailureReason) {
        if self.addresses
            && let Err(problem) = context.leases.release(id)
        {
            warn!(vm_id = %id, error = chain(&problem), "the VM's addresses were not released");
        }
        if reason.kind.is_permanent() {
            for disk in self.disks {
                if let Err(problem) = std::fs::remove_file(&disk) {
                    warn!(vm_id = %id, disk = %disk.display(), error = %problem, "a disk's copy was not removed");
                }
            }
        }
    }

    /// [`Takings::give_back`] for use on a runtime.
    pub(super) async fn give_back_from_task(
        self,
        context: &Arc<HostContext>,
        id: &VmId,
        reason: &FailureReason,
    ) {
        let (context, vm, reason) = (Arc::clone(context), id.clone(), reason.clone());
        let done = tokio::task::spawn_blocking(move || self.give_back(&context, &vm, &reason)).await;
        if let Err(problem) = done {
            warn!(vm_id = %id, error = chain(&problem), "what a failed start took was not given back");
        }
    }
}

//! What a start took of the host that its VM did not have before. A start that fails gives it back.

use std::sync::Arc;

use tracing::warn;
use vm_model::VmId;

use super::context::HostContext;
use crate::failure::chain;
use crate::volumes::Committed;

/// Acquired by one start.
#[derive(Debug, Default)]
pub(super) struct AcquiredResources {
    /// Whether the VM had no address before.
    pub(super) addresses: bool,
    /// Volumes that were switched over to.
    pub(super) volumes: Vec<Committed>,
}

impl AcquiredResources {
    /// Gives back what a start that failed took: addresses, and volumes go back to what they were. Blocks.
    pub(super) fn give_back(self, context: &HostContext, id: &VmId) {
        if self.addresses
            && let Err(problem) = context.leases.release(id)
        {
            warn!(vm_id = %id, error = chain(&problem), "the VM's addresses were not released");
        }
        for volume in &self.volumes {
            if let Err(problem) = context.volumes.undo(id, volume) {
                warn!(vm_id = %id, disk = volume.disk, error = chain(&problem), "a volume was not switched back");
            }
        }
    }

    /// [`AcquiredResources::give_back`] for use on a runtime.
    pub(super) async fn give_back_from_task(self, context: &Arc<HostContext>, id: &VmId) {
        let (context, vm) = (Arc::clone(context), id.clone());
        let done = tokio::task::spawn_blocking(move || self.give_back(&context, &vm)).await;
        if let Err(problem) = done {
            warn!(vm_id = %id, error = chain(&problem), "what a failed start took was not given back");
        }
    }
}

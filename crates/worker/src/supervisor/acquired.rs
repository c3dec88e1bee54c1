//! What a start took of the host that its VM did not have before, and what it changed. A start that fails gives it back.

use std::sync::Arc;

use ipam::Wish;
use tracing::warn;
use vm_model::{VmId, VmNic};

use super::context::HostContext;
use crate::failure::chain;
use crate::records::NicWish;
use crate::volumes::Committed;

/// Acquired by one start.
#[derive(Debug, Default)]
pub(super) struct AcquiredResources {
    /// The addresses that the VM had before it was given those of this start; absent where it was given none.
    pub(super) addresses_before: Option<Vec<VmNic>>,
    /// Volumes that were switched over to.
    pub(super) volumes: Vec<Committed>,
}

impl AcquiredResources {
    /// Gives back what a start that failed took: addresses and volumes go back to what they were. Blocks.
    pub(super) fn give_back(self, context: &HostContext, id: &VmId) {
        if let Some(before) = &self.addresses_before {
            give_addresses_back(context, id, before);
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

/// Has `id` hold the addresses that it had `before`, and no others. Blocks.
pub(super) fn give_addresses_back(context: &HostContext, id: &VmId, before: &[VmNic]) {
    let wishes: Vec<NicWish<'_>> = before
        .iter()
        .map(|VmNic { id, network, address, mac, .. }| NicWish {
            nic: id,
            network,
            wish: Wish { ip: Some(*address), mac: Some(*mac) },
        })
        .collect();
    if let Err(problem) = context.leases.ensure(id, &wishes) {
        warn!(vm_id = %id, error = chain(&problem), "the VM's addresses are not what they were before");
    }
}

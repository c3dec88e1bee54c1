//! What is kept of removed VMs, of volumes and of fetched store paths: looking at it, and deleting it by word.

use std::sync::Arc;

use binary_cache::CollectionMode;
use vm_model::{CollectedPath, CollectionRule, RemovedVm, Timestamp, VmId, VolumeInfo};

use super::VmManager;
use crate::housekeeping::Cleared;
use crate::vms::VmManagerError;
use crate::vms::control::{self, KeptSelection};

impl VmManager {
    /// VMs that were removed and whose volumes are kept for a while, by name. Creating or assigning one again brings it back
    /// with its data.
    pub fn list_removed_vms(&self) -> Vec<RemovedVm> {
        self.shared.context.removed.list().into_values().collect()
    }

    /// What VM `id` was, which was removed: one whose volumes are kept, or, while this worker runs, one that had none with
    /// data.
    pub fn recall_removed_vm(&self, id: &VmId) -> Option<RemovedVm> {
        self.shared.context.removed.recall(id, Timestamp::now())
    }

    /// Every content of every volume, also those that are kept for a while only.
    ///
    /// # Errors
    /// The host refuses to list them.
    pub async fn list_volumes_async(&self) -> Result<Vec<VolumeInfo>, VmManagerError> {
        self.executor.run(control::list_volumes(Arc::clone(&self.shared))).await?
    }

    /// Deletes at once what is kept for a while only. Answers what was deleted, in words.
    ///
    /// # Errors
    /// Something could not be deleted; what was deleted before it stays so.
    pub async fn delete_kept_async(&self, which: KeptSelection) -> Result<Cleared, VmManagerError> {
        self.executor.run(control::delete_kept(Arc::clone(&self.shared), which)).await?
    }

    /// What [`VmManager::delete_kept_async`] would delete now; nothing changes.
    ///
    /// # Errors
    /// [`VmManagerError::Volumes`].
    pub async fn show_kept_async(&self, which: KeptSelection) -> Result<Cleared, VmManagerError> {
        self.executor.run(control::show_kept(Arc::clone(&self.shared), which)).await?
    }

    /// Deletes what `rule` says of the fetched store paths that nothing needs, or tells what that would be, in the order in which
    /// it goes. A store that Nix keeps has none.
    ///
    /// # Errors
    /// It is not known what is needed, or something could not be deleted; what was deleted before it stays so.
    pub async fn collect_async(
        &self,
        rule: CollectionRule,
        mode: CollectionMode,
    ) -> Result<Vec<CollectedPath>, VmManagerError> {
        self.executor.run(control::collect(Arc::clone(&self.shared), rule, mode)).await?
    }

    /// Whether the deletion of VM `id`, which was removed, has begun: it does not come back.
    pub fn is_being_deleted(&self, id: &VmId) -> bool {
        self.shared.context.removed.is_being_deleted(id)
    }
}

//! The manager's calls on the consoles of VMs.

use console_log::{BootSummary, ConsoleDirectory, ConsoleFiles, ConsolePosition, ConsoleSnapshot};
use vm_model::VmId;

use super::VmManager;
use crate::records::console_directory;
use crate::vms::{ConsoleFollower, VmManagerError};

impl VmManager {
    /// Everything kept of what VM `id` wrote to its console when it ran last: the first and the latest part. May read files.
    ///
    /// # Errors
    /// There is no such VM, it has not run yet, or its console cannot be read.
    pub fn get_vm_console(&self, id: &VmId) -> Result<ConsoleSnapshot, VmManagerError> {
        if let Some((_, machine)) = self.shared.registry.machine(id)?.get() {
            return Ok(machine.console().snapshot());
        }
        let directory = console_directory(&self.shared.context.records.directory(id));
        match ConsoleDirectory::at(directory).newest() {
            Ok(Some(console)) => Ok(console),
            Ok(None) => Err(VmManagerError::NeverRan { id: id.clone() }),
            Err(problem) => Err(VmManagerError::Console { id: id.clone(), source: problem }),
        }
    }

    /// The boots of VM `id` whose console is kept, oldest first. Reads the directory's names only.
    ///
    /// # Errors
    /// There is no such VM, or its directory cannot be read.
    pub fn list_console_boots(&self, id: &VmId) -> Result<Vec<BootSummary>, VmManagerError> {
        self.console_files(id)?.boots().map_err(|source| VmManagerError::Console { id: id.clone(), source })
    }

    /// Where the last `lines` lines of VM `id`'s console begin, for [`VmManager::follow_console`].
    ///
    /// # Errors
    /// There is no such VM, or its console cannot be read.
    pub fn console_tail(&self, id: &VmId, lines: usize) -> Result<ConsolePosition, VmManagerError> {
        let start = self.console_files(id)?.start_of_tail(lines);
        start.map_err(|source| VmManagerError::Console { id: id.clone(), source })
    }

    /// Follows the console of VM `id` from `position` on. Must be called on a runtime. The follower outlives machines of
    /// the VM, and ends when the VM is gone.
    ///
    /// # Errors
    /// There is no such VM, or the host allows no more watches.
    pub fn follow_console(
        &self,
        id: &VmId,
        position: ConsolePosition,
    ) -> Result<ConsoleFollower, VmManagerError> {
        self.shared.registry.watch(id)?;
        let directory = self.shared.context.records.directory(id);
        ConsoleFollower::new(id.clone(), &directory, console_directory(&directory), position)
            .map_err(|source| VmManagerError::Follow { id: id.clone(), source })
    }

    fn console_files(&self, id: &VmId) -> Result<ConsoleFiles, VmManagerError> {
        self.shared.registry.watch(id)?;
        let directory = console_directory(&self.shared.context.records.directory(id));
        ConsoleFiles::open(&directory).map_err(|source| VmManagerError::Console { id: id.clone(), source })
    }
}
